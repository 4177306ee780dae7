"""What operators do with a running fleet: chat, reports, checks, keys, models."""
