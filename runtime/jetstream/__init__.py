"""What the roles need of JetStream beyond nats-py: publishing with a PubAck, and direct reads."""
