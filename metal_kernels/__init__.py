"""The kernels of DeepSeek-V4, one folder each: op, contract, reference and sources."""
