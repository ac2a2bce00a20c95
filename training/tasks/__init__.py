"""What a step of pretraining or fine-tuning does, and how each is tested."""
