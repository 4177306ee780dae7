"""Parts of a reply that several vendors send alike."""
