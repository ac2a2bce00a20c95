"""Which videos a training or an evaluation takes, and their classes and splits."""
