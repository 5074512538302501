"""What kernels share: number formats, rows, rotation, exact top-k, functions of texts."""
