"""The frames of those videos: packed, from files, resident or rendered."""
