"""The network of Table 1, its weights, and the exact split of a clip into frames."""
