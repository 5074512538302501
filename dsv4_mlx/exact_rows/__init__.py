"""How many rows of one call have the bits of single ones on a GPU: the self-test of a load.

Exact speculation reads a token and its drafts in one call, which has to give what one call for each
gives. Kernels of this project do by construction; whether a GPU, its compiler and MLX keep to it is
tried once for a GPU, MLX version and kernel text: `finding` decides, `products` and `attention` try
kernels at the shapes of a model, `whole_pass` tries the model, `at_load` keeps what was found.
"""
