"""Commands of the command line that start nothing: each module adds its own, and knows no actor."""
