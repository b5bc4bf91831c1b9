"""`python -m rlhf` is the command `rlhf`."""

from rlhf.cli import main

if __name__ == "__main__":
    main()
