"""The data plane: stateless workers that turn requests from NATS into vendor calls, events and usage records."""
