"""Training small V4 models: Muon, the losses, the loop, and the recipe of the embedded model."""
