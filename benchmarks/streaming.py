"""What reading experts from files costs: counts and ratios measured here, speeds expected on Macs.

    python -m benchmarks.streaming [--model PATH] [--slots 2,4,7] [--tokens N] [--rounds N]
    python -m benchmarks.streaming --expected

A prompt and a greedy reply by a model that has all experts in memory and by one that has so many of
each layer, in turn; both say the same. `ratio` is seconds a token of the second one's over the
first one's in the same round, a median with the smallest and the largest: where all experts that
the reply chooses are in memory, it is the cost of waiting for each layer's choice. By default a
small model of random weights, whose disk is the system's file cache, so that its seconds say
nothing about a disk. `--expected` computes speeds of V4-Flash on Macs that nobody measured.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.record import device, machine
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.expert_use import ExpertUse
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.weight_bytes import streamed_weights
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint

PROMPT_TOKENS = 200


@dataclass(frozen=True)
class Measured:
    """A streamed model beside one in memory."""

    slots: int
    experts: int
    prompt: ExpertUse
    """What the prompt found."""
    reply: ExpertUse
    """What the reply found, over `tokens` steps."""
    tokens: int
    ratios: tuple[float, ...]
    """Seconds a token over those in memory, by round."""
    resident_s: float
    """Seconds a token of the model in memory, the median."""

    def row(self) -> dict[str, str]:
        """For a table."""
        hits = self.reply.hit_rate
        return {
            "in memory": f"{self.slots} of {self.experts}",
            "prompt: experts read": f"{self.prompt.misses:,}",
            "reply: hits": "-" if hits is None else f"{hits:.1%}",
            "misses a token": f"{self.reply.misses / self.tokens:.2f}",
            "MB read a token": f"{self.reply.bytes_read / self.tokens / 1e6:.2f}",
            "ratio": f"{statistics.median(self.ratios):.2f}",
            "least": f"{min(self.ratios):.2f}",
            "most": f"{max(self.ratios):.2f}",
        }


def measured(
    open_model: Callable[[int | None], Model],
    slots: int,
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Compare; `open_model` gives the model with so many experts of each layer in memory, or all.

    UsageError where the two say something else.
    """
    resident, streamed = Engine(open_model(None)), Engine(open_model(slots))
    ratios, alone = [], []
    read = wrote = ExpertUse(slots)
    for _ in range(rounds):
        before = streamed.expert_use
        first, theirs, _ = _answered(resident, prompt, tokens, clock)
        second, ours, between = _answered(streamed, prompt, tokens, clock)
        if ours != theirs:
            raise SystemExit(f"expected {theirs} from files too but found {ours}")
        after = streamed.expert_use
        assert before is not None and between is not None and after is not None
        read, wrote = between.since(before), after.since(between)
        ratios.append(second / first)
        alone.append(first)
    count = resident.config.n_routed_experts
    return Measured(slots, count, read, wrote, tokens, tuple(ratios), statistics.median(alone))


def _answered(
    engine: Engine, prompt: Sequence[int], tokens: int, clock: Callable[[], float]
) -> tuple[float, list[int], ExpertUse | None]:
    """Seconds a token of a greedy reply, its ids, and what was found until the prompt was read."""
    session = engine.session()
    session.sync(prompt)
    found = engine.expert_use
    stream = session.stream(tokens + 1, temperature=0.0, stop_ids=())
    ids = [next(stream).id]
    begin = clock()
    ids += [token.id for token in stream]  # each takes a step
    return (clock() - begin) / tokens, ids, found


def prompt_of(config: DeepseekV4Config, length: int = PROMPT_TOKENS) -> list[int]:
    """Ids of a made-up text."""
    return [int(one) for one in np.random.default_rng(0).integers(2, config.vocab_size, length)]


def opener(checkpoint: Checkpoint, backend: str = "auto") -> Callable[[int | None], Model]:
    """Loads a checkpoint with so many experts of each layer in memory, or all."""
    sizes = streamed_weights(checkpoint)

    def open_model(slots: int | None) -> Model:
        memory = None if slots is None else slots * sizes.slot_bytes
        return load_model(checkpoint, backend=backend, drafts=False, expert_memory=memory)

    return open_model


def table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Rows with the same columns as lines of Markdown."""
    yield f"| {' | '.join(rows[0])} |"
    yield "|---" * len(rows[0]) + "|"
    for row in rows:
        yield f"| {' | '.join(row.values())} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a converted folder; default: a small one")
    parser.add_argument("--slots", default="", help="experts of each layer in memory, by commas")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--expected", action="store_true", help="speeds on Macs; nothing is run")
    options = parser.parse_args(arguments)
    if options.expected:
        from benchmarks import streamed_table

        print("Expected of V4-Flash, computed and not measured:\n")
        print(streamed_table.table(streamed_table.release_plans()), end="")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or write_tiny_checkpoint(Path(scratch) / "tiny", TINY)
        checkpoint = open_checkpoint(folder)
        config = checkpoint.config
        asked = [int(one) for one in options.slots.split(",") if one]
        sizes = asked or [config.num_experts_per_tok, config.n_routed_experts - 1]
        print(f"{folder.name}: {machine()}, {device()}; {options.rounds} rounds\n", flush=True)
        for number, slots in enumerate(sizes):
            one = measured(
                opener(checkpoint, options.backend),
                slots,
                prompt_of(config),
                options.tokens,
                options.rounds,
            )
            lines = list(table([one.row()]))
            print("\n".join(lines[2:] if number else lines), flush=True)
            mx.clear_cache()


if __name__ == "__main__":
    main()
