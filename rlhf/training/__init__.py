"""Training: Ray Train jobs round the transformers and TRL trainers, and the DeepSpeed learners of PPO."""
