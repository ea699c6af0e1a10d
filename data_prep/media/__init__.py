"""Reading untrusted media."""
