"""Do two trees of this project compute the same, bit for bit? See :mod:`.__main__`."""
