"""Hits as one HTML file to look at: thumbnails, players, sorting, nothing from elsewhere."""
