"""What every route does alike with HTTP: limits, bodies, pages, errors."""
