"""The database: its tables, their history, and how to reach it."""

from migrations.history import is_current, upgrade

__all__ = ["is_current", "upgrade"]
