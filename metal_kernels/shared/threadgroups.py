"""The most threads of a threadgroup, of the texts that run with any number of simdgroups.

Where a Mac refuses to launch a text ("Thread group size ... greater than the maximum allowed"), its
compiler gave a thread more registers than so many threads can have, and MLX has no way to ask for
fewer. Halve the text's number here, nothing else.
"""

MOST_THREADS = {
    # Half of what a threadgroup may have: a thread then may use twice the registers, and loads that
    # were issued together stay in flight together.
    "compress": 512,
    "hc_collapse": 512,
    "hc_head": 512,
    "index_select": 512,
    # One for each expert, or a few experts each.
    "expert_blocks": 256,
    # A stream of a token.
    "engram_gate": 256,
    # Its simdgroups share the rows of fn.
    "hc_mix": 256,
    "hc_post_mix": 256,
    "index_scores": 256,
    # Few, so that one token of 4096 channels still makes 64 threadgroups.
    "hc_post": 64,
}
