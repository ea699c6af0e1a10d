"""Training: the loop, what watches it (observers/), checkpoints and weights; the temporal autoencoder's in tae/."""
