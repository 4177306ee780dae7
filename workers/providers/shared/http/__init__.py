"""Vendors over HTTP: clients, time limits, bodies, server-sent events."""
