"""Parts of a request that several vendors write alike."""
