"""What a model can do, measured: perplexity, and responses scored side by side."""
