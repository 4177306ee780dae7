"""What admins ask: the fleet's state, dead letters, alerts, usage, models."""
