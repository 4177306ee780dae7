"""The control plane: tenants, providers, keys, usage. Writes Vault and never reads it; publishes what workers need."""
