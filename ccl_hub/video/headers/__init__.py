"""What the bytes of a file say that PyAV does not pass on: containers, pictures, still images."""
