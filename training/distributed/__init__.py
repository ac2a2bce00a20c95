"""Processes of one training: collectives with their gradient, averaging."""
