"""Speed, measured side by side: every script prints and records machine and command."""

from dsv4_mlx import before_mlx

before_mlx.precede_mlx()
