"""Where a request may be sent: candidates, circuits, load, concurrency, keys."""
