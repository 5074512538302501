"""What a model costs, and which machine it fits."""
