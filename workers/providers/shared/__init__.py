"""What the adapters of several vendors use."""
