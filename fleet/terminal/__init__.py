"""Text for a terminal: foreign text made safe, tables."""
