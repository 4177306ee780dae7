"""Questions and orders to running workers: cancel, resume, count tokens, list models."""
