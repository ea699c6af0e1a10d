"""Everything measured on a file, once."""
