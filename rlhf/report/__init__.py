"""The report of a run: what its directory holds, read after the fact, as one page and one short table."""
