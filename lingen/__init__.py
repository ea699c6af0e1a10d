"""The LinGen model and everything that runs without Ray and MLflow (needs torch, numpy and safetensors).

model = lingen.load("runs/t2v_256p_17s")
"""


def load(path, weights: str = "ema", device: str = "cpu"):
    """The denoiser of a finished stage (or its exported model folder); see lingen.model.pretrained.load_denoiser."""
    from lingen.model.pretrained import load_denoiser

    return load_denoiser(path, weights, device)
