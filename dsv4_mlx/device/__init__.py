"""What MLX's device is told: how long its command buffers are, and which memory stays."""
