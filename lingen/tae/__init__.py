"""The temporal autoencoder."""
