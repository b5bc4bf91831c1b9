"""Byte-level BPE tokenizers: training, the chat template, and what one makes of a text."""
