"""The training toolkit: what every technique that trains shares. It knows torch and core, and no technique."""
