"""The kernels of DeepSeek-V4: one folder each, with an op, a contract, a reference and its sources."""
