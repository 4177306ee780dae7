"""What people import and type."""
