"""Reinforcement learning from human feedback, from tokenizer to report, on Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"
