"""The temporal autoencoder (TAE): video to latents and back."""
