"""What a tenant may use: rate limits and budgets."""
