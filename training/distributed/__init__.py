"""The processes of one training: gathering with gradient, and averages."""
