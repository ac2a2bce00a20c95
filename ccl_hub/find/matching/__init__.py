"""From nearest frames to hits: evidence, segments, and what chance would give."""
