"""What `rlhf doctor` looks at: whether this machine can run this project, and what to do where it cannot."""
