"""What two ranks tell each other before they begin, and why they may not begin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class RankFacts:
    """One rank: its machine, its program, and its part of the model; sizes in bytes."""

    rank: int
    host: str
    version: str
    mlx: str
    backend: str
    gpu: str
    """The chip, whose family decides the last bits of its products."""
    memory: int | None
    """What a model may use there; None where nothing tells."""
    needed: int
    """What its part takes, cache included."""
    layers: tuple[int, int]
    """The first of its layers, and the one after its last."""
    held: tuple[int, int]
    """The layers that its folder has, in the same way."""
    layer_count: int
    fingerprint: str
    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else must be the same on both."""

    @property
    def name(self) -> str:
        """For sentences."""
        return f"rank {self.rank} ({self.host})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "RankFacts":
        """What `to_json` gave; TypeError or ValueError for anything else."""
        first, end = found["layers"]
        kept, after = found["held"]
        return cls(**{**found, "layers": (int(first), int(end)), "held": (int(kept), int(after))})


def refusal(ranks: Sequence[RankFacts]) -> str:
    """Why these ranks cannot run one model, a sentence; "" where they can."""
    return _differing(ranks) or _misfitting(ranks)


def remarks(ranks: Sequence[RankFacts]) -> list[str]:
    """What is worth saying of ranks that can run one model."""
    chips = [one.gpu for one in ranks]
    if len(set(chips)) == 1:
        return []
    return [
        f"the machines are unlike ({' and '.join(chips)}): the text may differ from what either "
        "says alone"
    ]


def _differing(ranks: Sequence[RankFacts]) -> str:
    """The first thing that both must have and do not."""
    mine, other = ranks
    pairs = [
        ("dsv4-mlx", mine.version, other.version, "install the same version on both"),
        ("mlx", mine.mlx, other.mlx, "install the same version on both"),
        ("recipe", mine.recipe, other.recipe, "convert both with the same recipe"),
        ("weights", mine.fingerprint[:12], other.fingerprint[:12], "copy the folder of one"),
        ("backend", mine.backend, other.backend, "start both with the same --backend"),
    ]
    names = sorted({*mine.settings, *other.settings})
    pairs += [
        (name, mine.settings.get(name, ""), other.settings.get(name, ""), "start both alike")
        for name in names
    ]
    for name, here, there, cure in pairs:
        if here != there:
            return (
                f"{mine.name} has {name} {here or 'none'} and {other.name} has {there or 'none'}; "
                f"{cure}."
            )
    return ""


def _misfitting(ranks: Sequence[RankFacts]) -> str:
    """What is wrong with layers or with memory."""
    for one in ranks:
        if not (one.held[0] <= one.layers[0] and one.layers[1] <= one.held[1]):
            return (
                f"{one.name} is to run {_layers(one.layers)} and its folder has "
                f"{_layers(one.held)} alone; convert that part there, or copy it."
            )
    parts = sorted(one.layers for one in ranks)
    ends = [0, *(part[1] for part in parts)]
    if [part[0] for part in parts] != ends[:-1] or ends[-1] != ranks[0].layer_count:
        spans = " and ".join(f"{one.name} {_layers(one.layers)}" for one in ranks)
        return (
            f"{spans} are not the model's {ranks[0].layer_count} layers, each once; install the "
            "same version on both."
        )
    return _too_large(ranks)


def _too_large(ranks: Sequence[RankFacts]) -> str:
    """What is wrong with memory, on both machines where it is."""
    found = [
        (one, one.memory) for one in ranks if one.memory is not None and one.needed > one.memory
    ]
    if not found:
        return ""
    needs = " and ".join(
        f"{one.name} needs {one.needed / GIB:.1f} GiB for {_layers(one.layers)} and may use "
        f"{memory / GIB:.1f} GiB"
        for one, memory in found
    )
    raised = " and ".join(
        f"on {one.host} sudo sysctl iogpu.wired_limit_mb={-(-one.needed // (1 << 20))}"
        for one, _ in found
        if one.backend == "metal"
    )
    return f"{needs}; take a smaller recipe{raised and f', or say {raised}'}."


def _layers(span: tuple[int, int]) -> str:
    first, end = span
    return f"layer {first}" if end - first == 1 else f"layers {first} to {end - 1}"
