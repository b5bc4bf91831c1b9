"""Ray processes of a PPO run: thin hosts round `rlhf` objects; no mathematics lives here."""

from rlhf.startup import starting

starting()  # here, since a process of Ray's imports this first and then what its actor needs; `Titled.at` ends it
