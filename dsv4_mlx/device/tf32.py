"""Whether MLX multiplies float32 as TF32, which keeps 10 of 23 bits: off unless a person asks.

On NVIDIA cards and on M5 MLX does by default. A bfloat16 value is one of TF32, so products of those
lose nothing; but most of our products begin with float32 values, the router's, the compressors' and
the head's among them (tests/model/test_exact_inputs.py has the list), and there a rounding chooses
another expert, entry or token. MLX has one switch for all products of a process, and reads it at
the first of them.
"""

import os
from collections.abc import Mapping, MutableMapping

VARIABLE, OFF = "MLX_ENABLE_TF32", "0"

_set: set[str] = set()


def forbid(variables: MutableMapping[str, str] | None = None) -> None:
    """Turn TF32 off where the person has not decided; idempotent."""
    variables = os.environ if variables is None else variables
    if VARIABLE not in variables:
        variables[VARIABLE] = OFF
        _set.add(VARIABLE)


def ours(variables: Mapping[str, str]) -> frozenset[str]:
    """The variable, if it was set here and still says so."""
    return frozenset(name for name in _set if variables.get(name) == OFF)
