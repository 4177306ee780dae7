"""What admins set: tenants, providers, keys, tokens, webhooks."""
