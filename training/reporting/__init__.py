"""The page that is made of results files."""
