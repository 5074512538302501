"""Data that nano is trained on and measured with, all of it made from seeds."""
