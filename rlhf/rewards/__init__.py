"""What a response is worth: a weighted sum of reward models, functions, services and rules."""
