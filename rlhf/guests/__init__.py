"""The user's own code, in processes that hold none of our secrets and can be ended."""
