"""What MLX's device is told: the length of its command buffers, its float32, its memory."""
