"""The audit log: written, verified, trimmed."""
