"""What is measured, on what, and the results files."""
