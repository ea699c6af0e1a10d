"""From curated spans to latent and text shards."""
