"""What a training is told: recipes in TOML, and the meaning of every key."""
