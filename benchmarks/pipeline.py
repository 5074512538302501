"""What cutting a model in two costs: counts and ratios measured here, speeds expected on Macs.

    python -m benchmarks.pipeline [--model PATH] [--prompt N] [--chunk N] [--tokens N] [--rounds N]
    python -m benchmarks.pipeline --expected

A prompt in chunks and a greedy reply, by a whole model and by two processes over MLX's ring on
loopback, in turn; both say the same. Ratios are seconds on two over seconds on one of the same
round, medians with the smallest and the largest. `waited` is the part of the prompt's time in which
rank 0 waited for the worker: about half, did the worker not read the next chunk meanwhile. Both
ranks share the cores of this machine and its memory, so the ratios say what the connection costs.
By default a small model of random weights. `--expected` computes speeds of V4-Pro on two Macs that
nobody measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.rank_processes import Rank, run_ranks
from benchmarks.record import machine
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.loading import load_model
from dsv4_mlx.pipeline.part_loading import load_part
from dsv4_mlx.pipeline.piped import PipelineModel
from dsv4_mlx.pipeline.split import split_of
from dsv4_mlx.pipeline.worker import work
from dsv4_mlx.release.config import PRO, DeepseekV4Config
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.weights.checkpoint import open_checkpoint

LIMIT_S = 3_600
REACHED = 0.85
"""What a token of large matrices reaches of a memory's bandwidth."""
LAUNCHES_S = (28e-3, 51e-3)
"""What the launches of a token of V4-Pro's 61 layers take, from other programs' speeds."""
HOP_S = (1e-3, 2e-3)
"""Streams one way over TCP, two waits of the host, and ids back."""
CHUNK = 2_048


@dataclass(frozen=True)
class Round:
    """A prompt and a reply of one engine."""

    prompt_s: float
    token_s: float
    ids: list[int]


@dataclass(frozen=True)
class ExpectedPipeline:
    """A model on two machines alike, by its bytes; nothing of it was measured."""

    config: DeepseekV4Config
    bandwidth: float
    """Bytes a second of one machine's memory."""

    @property
    def tokens_per_s(self) -> tuple[float, float]:
        """Least and most: halves of a token follow one another, and a hop lies between them."""
        read = Costs(self.config).bytes_per_token() / (REACHED * self.bandwidth)
        slow, fast = (read + LAUNCHES_S[end] + HOP_S[end] for end in (1, 0))
        return 1 / slow, 1 / fast

    @property
    def stream_bytes(self) -> int:
        """Of one token over the connection."""
        return 2 * self.config.hc_mult * self.config.hidden_size

    def rank_bytes(self) -> tuple[int, int]:
        """Weights in the memory of rank 0 and of rank 1."""
        return split_of(release_plan(self.config), self.config.num_hidden_layers, "BF16").nbytes


def overlapped(chunks: int) -> float:
    """How much faster two equal halves read a prompt of so many chunks than one after the other:
    the first chunk and the last have nothing beside them."""
    return 2 * chunks / (chunks + 1)


def timed(engine: Engine, prompt: Sequence[int], tokens: int) -> Round:
    """One round."""
    session = engine.session()
    start = time.perf_counter()
    session.sync(prompt)
    read = time.perf_counter()
    ids = [token.id for token in session.stream(tokens, stop_ids=())]
    return Round(read - start, (time.perf_counter() - read) / tokens, ids)


class Waits:
    """How long rank 0 waits for streams from now on."""

    def __init__(self, model: PipelineModel) -> None:
        self.seconds = 0.0
        self._streams = model._link.streams
        model._link.streams = self._waited  # type: ignore[method-assign]

    def _waited(self, coming: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._streams(coming)
        finally:
            self.seconds += time.perf_counter() - start


def compared(
    alone: Engine, two: Engine, prompt: Sequence[int], tokens: int, rounds: int
) -> dict[str, Any]:
    """What was measured, as JSON data; ratios are of two ranks over one."""
    model: Any = two.model
    timed(alone, prompt, 2)
    timed(two, prompt, 2)
    pairs = []
    for number in range(rounds):
        order = (alone, two) if number % 2 else (two, alone)
        found = {engine: timed(engine, prompt, tokens) for engine in order}
        assert found[alone].ids == found[two].ids, "two ranks say something else than one"
        pairs.append((found[alone], found[two]))
    session, before, waits = two.session(), replace(model.counts), Waits(model)
    start = time.perf_counter()
    session.sync(prompt)
    waited = waits.seconds / (time.perf_counter() - start)
    read = replace(model.counts)
    list(session.stream(tokens, stop_ids=()))
    after = model.counts
    return {
        "token_ratios": [two.token_s / one.token_s for one, two in pairs],
        "prompt_ratios": [two.prompt_s / one.prompt_s for one, two in pairs],
        "token_s": statistics.median(one.token_s for one, _ in pairs),
        "waited": waited,
        "calls": read.calls - before.calls,
        "ahead": read.ahead - before.ahead,
        "messages": (after.messages - read.messages) / tokens,
        "message_bytes": (after.message_bytes - read.message_bytes) / tokens,
        "stream_bytes": (after.stream_bytes - read.stream_bytes) / tokens,
        "bytes_loaded": model.pipeline["bytes_loaded"],
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"token, two / one        {spread(found['token_ratios'])}"
    yield f"prompt, two / one       {spread(found['prompt_ratios'])}"
    yield f"token on one            {1e3 * found['token_s']:.1f} ms"
    yield f"rank 0 waited           {found['waited']:.0%} of the prompt"
    yield f"chunks read ahead       {found['ahead']} of {found['calls']}"
    yield f"messages a token        {found['messages']:g} of {found['message_bytes']:,.1f} bytes"
    yield f"streams a token         {found['stream_bytes']:,.0f} bytes"
    yield f"bytes loaded            {' + '.join(f'{one:,}' for one in found['bytes_loaded'])}"


def spread(ratios: Sequence[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def rank(
    descriptor: str, folder: str, backend: str, prompt: int, chunk: int, tokens: int, rounds: int
) -> None:
    """One of the two processes; rank 0 prints what `compared` gives."""
    group, control = Rank.begun(descriptor)
    checkpoint = open_checkpoint(folder)
    part = load_part(checkpoint, group, backend=backend)
    if group.rank() == 1:
        work(part, group, control)
        return
    whole = load_model(checkpoint, backend=backend, drafts=False)
    model = PipelineModel(part, group, control)
    alone = Engine(whole, prefill_chunk=chunk, compiled=False)
    two = Engine(model, prefill_chunk=chunk)
    ids = [7 * number % (checkpoint.config.vocab_size - 2) + 2 for number in range(prompt)]
    print(json.dumps(compared(alone, two, ids, tokens, rounds)))
    model.close()


def measured(
    folder: Path, backend: str, prompt: int, chunk: int, tokens: int, rounds: int
) -> dict[str, Any]:
    """What `compared` gives of the model in `folder`, by two processes."""
    numbers = map(str, (prompt, chunk, tokens, rounds))
    said, _ = run_ranks("benchmarks.pipeline", ["rank", str(folder), backend, *numbers], LIMIT_S)
    found: dict[str, Any] = json.loads(said)
    return found


def expected_lines() -> Iterator[str]:
    """What to expect of V4-Pro, native, on two Macs."""
    yield "Expected of V4-Pro on two M3 Ultra, computed and not measured:"
    pro = ExpectedPipeline(PRO, 819e9)
    slow, fast = pro.tokens_per_s
    yield f"tokens a second           {slow:.1f} to {fast:.1f}"
    zero, one = pro.rank_bytes()
    yield f"weights                   {zero / 1e9:.0f} GB on rank 0, {one / 1e9:.0f} GB on rank 1"
    yield f"streams                   {pro.stream_bytes / 1e3:.0f} KB a token"
    yield f"                          {pro.stream_bytes * CHUNK / 1e6:.0f} MB a chunk of {CHUNK:,}"
    for chunks in (1, 2, 4, 16):
        yield f"prompt of {chunks:2} chunks       {overlapped(chunks):.2f} x one after the other"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder; default: a small one")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--expected", action="store_true", help="speeds on Macs; nothing is run")
    options = parser.parse_args(arguments)
    if options.expected:
        print("\n".join(expected_lines()))
        return
    numbers = (options.prompt, options.chunk, options.tokens, options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or write_tiny_checkpoint(Path(scratch) / "tiny", TINY)
        print(f"{folder.name}: {machine()}; {options.rounds} rounds")
        print("\n".join(lines(measured(folder, options.backend, *numbers))))


if __name__ == "__main__":
    if sys.argv[2:3] == ["rank"]:
        rank(sys.argv[1], sys.argv[3], sys.argv[4], *map(int, sys.argv[5:]))
    else:
        main()
