"""What every role of the fleet stands on: settings, the broker, logs, probes and metrics, the sealing of keys."""
