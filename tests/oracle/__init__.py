"""The float64 oracle: DeepSeek-V4 in numpy, written from the specification, not from the model."""
