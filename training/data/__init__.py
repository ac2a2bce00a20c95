"""Which videos a training or an evaluation takes, and their labels."""
