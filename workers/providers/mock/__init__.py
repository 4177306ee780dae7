"""A vendor that answers as its request says, for demonstrations and tests."""
