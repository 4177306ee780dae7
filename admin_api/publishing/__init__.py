"""What the control plane writes to NATS and Vault."""
