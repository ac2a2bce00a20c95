"""What serves maintainers; no part of the product."""
