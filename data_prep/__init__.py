"""Curation and encoding on Ray Data: licensed clips in, latent shards out."""
