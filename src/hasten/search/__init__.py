"""What to try next, and why."""
