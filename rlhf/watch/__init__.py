"""What `rlhf watch` shows: a run as its directory tells it, finished or under way."""
