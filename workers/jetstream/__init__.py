"""What workers keep in or read from NATS that is nothing of one request: events, counters, presence."""
