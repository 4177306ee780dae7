"""Prices of models: the catalogue, rates beside it, and what a call costs."""
