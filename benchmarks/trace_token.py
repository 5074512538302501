"""One decoded token as a GPU trace for Xcode, on a Mac.

    MTL_CAPTURE_ENABLED=1 python -m benchmarks.trace_token [--model FOLDER] [--out token.gputrace]

Reads a short prompt and decodes a few tokens first, so that every kernel is compiled; then one
token alone is captured. docs/mac.md says what to look at. Without --model the embedded nano.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from dsv4_mlx import cache as caches
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.loading import load
from dsv4_mlx.model.v4 import Model

NANO = Path(__file__).parents[1] / "dsv4_mlx" / "nano"
VARIABLE = "MTL_CAPTURE_ENABLED"
_WARM_UPS = 8


def refusal(out: Path) -> str:
    """Why no trace can be made, as a sentence; "" where it can."""
    if not mx.metal.is_available():
        return "A trace needs a Mac with a Metal device, and MLX finds none here."
    if os.environ.get(VARIABLE) != "1":
        return f"Metal captures only where {VARIABLE}=1 is set before the program starts; set it."
    if out.exists():
        return f"{out} exists, and Metal writes no trace over another; name another with --out."
    return ""


def captured(model: Model, prompt: Sequence[int], out: Path) -> None:
    """Capture one token after `prompt` and some tokens of the model's own."""
    cache = model.make_cache()
    token = _next(model, cache, mx.array([list(prompt)]))
    for _ in range(_WARM_UPS):
        token = _next(model, cache, token)
    mx.metal.start_capture(str(out))
    try:
        _next(model, cache, token)
    finally:
        mx.metal.stop_capture()


def _next(model: Model, cache: list[caches.LayerCache], tokens: mx.array) -> mx.array:
    following = model.last_logits(tokens, cache).argmax(-1)[None]
    mx.eval(following, caches.evaluated(cache))
    return following


def main(arguments: Sequence[str] | None = None) -> int:
    """Capture, and say where; 1 where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=NANO, help="folder of a checkpoint")
    parser.add_argument("--out", type=Path, default=Path("token.gputrace"))
    options = parser.parse_args(arguments)
    if message := refusal(options.out):
        print(message, file=sys.stderr)
        return 1
    try:
        model, tokenizer = load(options.model)
    except Dsv4Error as error:
        print(error, file=sys.stderr)
        return 1
    captured(model, tokenizer.encode("What is DeepSeek-V4?"), options.out)
    print(f"wrote {options.out}; open it with Xcode")
    return 0


if __name__ == "__main__":
    sys.exit(main())
