"""Markdown while it streams: finished blocks, and the one that is open."""
