"""Environments: what answers a response of the policy, turn by turn, and what it pays."""
