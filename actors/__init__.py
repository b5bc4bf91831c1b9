"""Ray processes of a PPO run: thin hosts round `rlhf` objects; no mathematics lives here."""
