"""Programs for maintainers, from a clone alone."""
