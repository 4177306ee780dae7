"""Who may do what: the tables that the permission tests go through and docs/security.md shows."""
