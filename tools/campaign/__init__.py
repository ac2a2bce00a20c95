"""Training the bundled checkpoint in short turns on a borrowed GPU."""
