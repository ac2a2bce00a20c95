"""From frames to augmented clips, in batches or whole videos at a time."""
