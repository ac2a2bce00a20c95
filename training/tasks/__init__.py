"""What is trained: pretraining, fine-tuning, and how each is tested."""
