"""Models: loading them for a role, and what PPO reads from them."""
