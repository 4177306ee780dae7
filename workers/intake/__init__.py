"""How requests get from JetStream into a worker, and fairly so."""
