"""Import of vendors' keys: where they are found, what is done with each, and how that is carried out."""
