"""What a training run costs, traced from the real model on fake tensors: memory, time, traffic, data and storage."""
