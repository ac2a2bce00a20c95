"""Decoding in processes of their own, supervised; nothing here imports torch."""
