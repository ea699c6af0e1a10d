"""The LinGen denoiser, one module per part."""
