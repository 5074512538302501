"""What caches of other sizes would have found of the experts that a trace names.

    dsv4-chat --expert-memory SIZE --expert-trace FILE
    python -m benchmarks.expert_cache FILE [--slots 6,16,...] [--expert-bytes N --disk GB/S]

Each layer has its own slots, and the expert that was used longest ago makes room. A prompt passes a
layer as a whole, so its experts are read once and those of its last tokens stay; what is counted
are the tokens of replies. Beside that the best that any cache could do, which knows what comes.
With the bytes of one expert and the rate of a disk, the seconds a token would wait for it.
"""

import argparse
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_mlx.weights.expert_trace import Choice, read_trace

SLOTS = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 172, 200, 230)
"""Sizes that are tried where nobody says others."""
SEED_TOKENS = 256
"""Last tokens of a prompt whose experts stay, as in `dsv4_mlx.whole_layers`."""
_NEVER = 1 << 62

Calls = Sequence[Sequence[Choice]]
"""The calls of one layer: the tokens of a prompt together, those of a reply one by one."""


@dataclass
class Found:
    """What replies found of the experts they wanted."""

    hits: int = 0
    misses: int = 0
    tokens: int = 0
    """Tokens of replies, in one layer."""

    @property
    def hit_rate(self) -> float:
        """From 0 to 1; 0 where nothing was wanted."""
        wanted = self.hits + self.misses
        return self.hits / wanted if wanted else 0.0

    @property
    def misses_per_token(self) -> float:
        """In all layers together."""
        return self.misses / self.tokens if self.tokens else 0.0


def calls_by_layer(choices: Iterable[Choice]) -> dict[int, list[list[Choice]]]:
    """The calls of every layer in their order."""
    layers: dict[int, list[Choice]] = defaultdict(list)
    for choice in choices:
        layers[choice.layer].append(choice)
    return {layer: list(_calls(found)) for layer, found in sorted(layers.items())}


def _calls(choices: Sequence[Choice]) -> Iterator[list[Choice]]:
    at = 0
    while at < len(choices):
        together = choices[at].together
        yield list(choices[at : at + together])
        at += together


def replayed(layers: Mapping[int, Calls], slots: int) -> Found:
    """What replies find with `slots` of every layer, the expert used longest ago making room."""
    found = Found()
    for number, calls in enumerate(layers.values()):
        held: OrderedDict[int, None] = OrderedDict()
        for call in calls:
            if call[0].together > 1:
                _read_prompt(held, call, slots)
                continue
            wanted = dict.fromkeys(call[0].experts)
            hits = sum(expert in held for expert in wanted)
            found.hits += hits
            found.misses += len(wanted) - hits
            found.tokens += number == 0
            _use(held, wanted, slots)
    return found


def _read_prompt(held: OrderedDict[int, None], call: Sequence[Choice], slots: int) -> None:
    """A prompt leaves the experts of its last tokens, the last ones used last."""
    recent = [expert for choice in call[-SEED_TOKENS:] for expert in choice.experts]
    latest = list(dict.fromkeys(reversed(recent)))[:slots]
    _use(held, reversed(latest), slots)


def _use(held: OrderedDict[int, None], experts: Iterable[int], slots: int) -> None:
    for expert in experts:
        held[expert] = None
        held.move_to_end(expert)
    while len(held) > slots:
        held.popitem(last=False)


def best(layers: Mapping[int, Calls], slots: int) -> Found:
    """What replies would find at most: what is wanted last of all makes room, and of a prompt, with
    which all experts pass, those stay that are wanted first."""
    found = Found()
    for number, calls in enumerate(layers.values()):
        coming = _coming(calls)
        held: set[int] = set()
        for call in calls:
            if call[0].together > 1:
                held = set(coming)
            else:
                wanted = set(call[0].experts)
                for expert in wanted:
                    coming[expert].pop()
                found.hits += len(wanted & held)
                found.misses += len(wanted - held)
                found.tokens += number == 0
                held |= wanted
            if len(held) > slots:
                order = sorted(held, key=lambda one: coming[one][-1] if coming[one] else _NEVER)
                held = set(order[:slots])
    return found


def _coming(calls: Calls) -> dict[int, list[int]]:
    """By expert the numbers of the calls of replies that want it, the next one last."""
    coming: dict[int, list[int]] = defaultdict(list)
    for number in range(len(calls) - 1, -1, -1):
        if calls[number][0].together == 1:
            for expert in dict.fromkeys(calls[number][0].experts):
                coming[expert].append(number)
    return coming


def table(
    layers: Mapping[int, Calls],
    sizes: Sequence[int],
    expert_bytes: int | None = None,
    disk_gb_s: float | None = None,
) -> Iterator[str]:
    """Lines of Markdown, one for each size."""
    timed = expert_bytes is not None and disk_gb_s is not None
    extra = " GB of slots | expected wait, s a token |" if timed else ""
    yield f"| slots of each layer | hits | at most | misses a token |{extra}"
    yield "|---" * (6 if timed else 4) + "|"
    for slots in sizes:
        found = replayed(layers, slots)
        line = f"| {slots} | {found.hit_rate:.1%} | {best(layers, slots).hit_rate:.1%} "
        line += f"| {found.misses_per_token:.2f} |"
        if expert_bytes is not None and disk_gb_s is not None:
            waits = found.misses_per_token * expert_bytes / (disk_gb_s * 1e9)
            line += f" {slots * len(layers) * expert_bytes / 1e9:.1f} | {waits:.3f} |"
        yield line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--slots", default=",".join(map(str, SLOTS)), help="sizes, by commas")
    parser.add_argument("--expert-bytes", type=int, help="of one expert in its file")
    parser.add_argument("--disk", type=float, metavar="GB/S", help="rate of the disk")
    options = parser.parse_args(arguments)
    layers = calls_by_layer(read_trace(options.trace))
    largest = max(e for calls in layers.values() for c in calls for t in c for e in t.experts)
    sizes = [int(size) for size in options.slots.split(",")]
    sizes = [size for size in sizes if size <= largest + 1] or [largest + 1]
    tokens = sum(call[0].together == 1 for call in next(iter(layers.values())))
    print(f"{len(layers)} layers, {tokens} tokens of replies\n")
    for line in table(layers, sizes, options.expert_bytes, options.disk):
        print(line)


if __name__ == "__main__":
    main()
