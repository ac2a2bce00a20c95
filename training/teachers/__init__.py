"""Image encoders others have trained: where a training starts, and what it must not forget."""
