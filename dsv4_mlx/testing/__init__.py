"""Tools the tests share: tiny checkpoints in the official format and their exact values."""
