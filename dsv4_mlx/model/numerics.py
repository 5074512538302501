"""Which roundings the model applies between its operations.

The choice is made once, when a model is built, and has no other switches.
"""

import enum


class Numerics(enum.Enum):
    """Where values are rounded.

    `OFFICIAL` rounds where the official inference code rounds: bf16 streams, activations and
    entries, FP8 window and compressed entries, Hadamard and FP4 index keys and queries.
    `PLAIN` rounds nothing, so its logits can be compared with transformers in float32.
    """

    OFFICIAL = "official"
    PLAIN = "plain"
