"""The LinGen model and everything that runs without Ray and MLflow (needs torch, numpy and safetensors)."""
