"""What a training is told: recipes in TOML, and what they may say."""
