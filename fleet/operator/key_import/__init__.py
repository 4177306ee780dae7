"""Vendor keys from files and tables into the fleet."""
