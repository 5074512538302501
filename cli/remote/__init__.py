"""A model that a running server has: `dsv4-chat --server URL`."""
