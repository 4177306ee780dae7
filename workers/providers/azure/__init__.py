"""Azure OpenAI: OpenAI's format under Azure's addresses and logins."""
