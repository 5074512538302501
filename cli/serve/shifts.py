"""What a body of chat completions or completions adds to logits."""

from collections.abc import Mapping
from typing import Any

from cli.serve.reading import Body, invalid
from dsv4_mlx.engine.sampling import BIASES, SHIFT_RANGES, TOKEN_IDS, Shifts


def shifts_of(body: Body) -> Shifts:
    """Penalties and biases of a body; RequestFault with the field that is wrong."""
    given: dict[str, Any] = {}
    for name, allowed in SHIFT_RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        if value not in allowed:
            raise invalid(name, str(allowed), value)
        given[name] = float(value)
    return Shifts(**given, logit_bias=_biases(body))


def _biases(body: Body) -> tuple[tuple[int, float], ...]:
    given = body.get("logit_bias")
    if not isinstance(given, Mapping | None):
        raise invalid("logit_bias", "an object of biases by ids of tokens", given)
    found: dict[int, float] = {}
    for name, bias in (given or {}).items():
        try:
            token = int(TOKEN_IDS.read(name))
        except ValueError as error:
            expected = f"an object whose names are ids, each {TOKEN_IDS.expected(name)}"
            raise invalid("logit_bias", expected, name) from error
        if bias not in BIASES:
            raise invalid("logit_bias", f"{BIASES} for token {token}", bias)
        found[token] = float(bias)
    return tuple((token, bias) for token, bias in found.items() if bias)
