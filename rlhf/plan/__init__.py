"""Will a config fit, and how long does an iteration take: arithmetic before anything starts. See docs/planning.md."""
