"""The whole stack on one machine, from wheels: its servers, its roles, and the supervisor that keeps them running."""
