"""Who calls, what they may, and who is refused."""
