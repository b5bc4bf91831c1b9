"""Proximal policy optimization from feedback: its config, its experience, its loop."""
