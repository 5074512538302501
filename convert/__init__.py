"""`python -m convert SRC DST`: official DeepSeek-V4 files to a folder that MLX loads directly."""
