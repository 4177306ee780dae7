"""What vendors say when they refuse or fail, as the fleet's errors."""
