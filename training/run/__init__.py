"""A run, whatever is trained: the loop, its folder, checkpoints and logs."""
