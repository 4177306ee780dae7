"""Vendor adapters: one module for each vendor, loaded only by the pool that needs it."""
