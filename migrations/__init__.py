"""The database: its tables, their history, and how to reach it."""

from migrations.history import is_current, open_migrated, upgrade

__all__ = ["is_current", "open_migrated", "upgrade"]
