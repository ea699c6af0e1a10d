"""LinGen's denoiser, part by part."""
