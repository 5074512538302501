"""Whether a model fits into this machine's memory, said with figures before it is loaded."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cli.machine.machine import WIRED_LIMIT, Machine, read_machine
from dsv4_mlx.chat.settings import MAX_LEVEL_CONTEXT
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.errors import UsageError
from dsv4_mlx.sizing.held import held_bytes
from dsv4_mlx.sizing.machines import (
    GIB,
    WORKING_BYTES,
    longest_context,
    memory_needed,
    wired_limit_mb,
)
from dsv4_mlx.sizing.passes import stream_bytes
from dsv4_mlx.sizing.prefill import chunk_that_fits
from dsv4_mlx.sizing.recipe_sizes import RECIPES

if TYPE_CHECKING:
    from dsv4_mlx.release.config import DeepseekV4Config, DraftKind
    from dsv4_mlx.release.layer_ranges import LayerRange
    from dsv4_mlx.sizing.costs import Kv
    from dsv4_mlx.weights.checkpoint import Checkpoint, ModelFolder

SHORT_CONTEXT = 8_192
"""Tokens that must fit where nothing else is asked for."""
# No array is larger in memory than five times its bytes on disk; most are as large.
_LARGEST_GROWTH = 5


@dataclass(frozen=True)
class Fit:
    """One model on one machine."""

    folder: Path
    config: "DeepseekV4Config"
    weights: int
    """Bytes of the loaded weights."""
    machine: Machine
    backend: str
    kv: "Kv" = "compact"
    drafts: int = 0
    """Bytes of draft blocks among the weights."""
    dropped: int = 0
    """Bytes of draft blocks that there is no memory for beside the model."""
    layers: "LayerRange | None" = None
    """Those of a part of a model; None for all."""
    by_layers: int = 0
    """Bytes of a number of the streams of a prompt that passes it layer by layer; 0 for others."""

    @classmethod
    def of(
        cls,
        checkpoint: "Checkpoint",
        kv: "Kv" = "compact",
        *,
        backend: str = "auto",
        machine: Machine | None = None,
        draft: DraftChoice = "auto",
    ) -> "Fit":
        """How an opened checkpoint stands to a machine, by default this one.

        Draft blocks that are wanted count where they fit beside the model and a short context.
        """
        from dsv4_mlx.about import about, device_memory, wirable_memory
        from dsv4_mlx.sizing.weight_bytes import block_bytes, draft_bytes, weight_bytes

        resolved = about(backend).backend
        machine = machine or replace(read_machine(), wirable=wirable_memory(resolved))
        machine = replace(machine, device=machine.device or device_memory(resolved))
        dense = 4 if resolved == "cpu" else 2
        weights, drafts = weight_bytes(checkpoint, dense=dense), 0
        kind = checkpoint.config.draft_kind
        if kind is not None and wants_drafts(kind, draft, resolved):
            drafts = draft_bytes(checkpoint, dense=dense)
        if kind == "mtp":
            weights -= block_bytes(checkpoint, dense=dense)
        bare = cls(
            checkpoint.folder, checkpoint.config, weights, machine, resolved, kv,
            layers=checkpoint.layers,
        )  # fmt: skip
        whole = replace(bare, weights=weights + drafts, drafts=drafts)
        short = min(SHORT_CONTEXT, whole.config.max_position_embeddings)
        return whole if not drafts or whole.fits(short) else replace(bare, dropped=drafts)

    def held(self) -> int:
        """Bytes that stay resident while it is used on Metal."""
        wanted = held_bytes(self.config, self.weights, kv=self.kv)
        return wanted if self.limit is None else min(wanted, self.limit)

    def needed(self, context: int) -> int:
        """Bytes with a conversation of `context` tokens."""
        return memory_needed(
            self.config, self.weights, context, self.kv, self.layers, by_layers=self.by_layers
        )

    def streams(self, context: int) -> int:
        """Of these the streams of a prompt of `context` tokens."""
        return stream_bytes(self.config, context, self.by_layers)

    @cached_property
    def limit(self) -> int | None:
        return self.machine.limit(self.backend)

    @cached_property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that are read at a time."""
        return chunk_that_fits(
            self.config, self.weights, self.limit, self.backend, self.kv, by_layers=self.by_layers
        )

    def fits(self, context: int) -> bool:
        """Whether the model may use that much; true when the machine does not tell."""
        return self.limit is None or self.needed(context) <= self.limit

    def longest(self) -> int:
        """Tokens of context that fit now."""
        return self._longest(self.limit)

    def _longest(self, limit: int | None) -> int:
        most = self.config.max_position_embeddings
        if limit is None or self.needed(most) <= limit:
            return most
        return longest_context(
            self.config, self.weights, limit, self.kv, self.layers, by_layers=self.by_layers
        )

    def command(self, context: int) -> str | None:
        """The line that lets `context` tokens fit; None where it is not needed or no help."""
        raisable = self.machine.raisable(self.backend)
        needed = self.needed(context)
        if self.fits(context) or raisable is None or needed > raisable:
            return None
        most = raisable // (1 << 20)
        return f"sudo sysctl {WIRED_LIMIT}={min(wired_limit_mb(needed), most)}"

    def sentence(self, context: int) -> str:
        """What is needed, what there is, and what would fit."""
        streams = self.streams(context)
        cache = self.needed(context) - self.weights - streams - WORKING_BYTES
        parts = f"weights {size(self.weights)}, cache {size(cache)} at {context:,} tokens"
        if streams:
            parts += f", streams of a prompt {size(streams)}"
        return (
            f"{self.folder} needs {size(self.needed(context))} of memory ({parts}, program "
            f"{size(WORKING_BYTES)}) and {size(self.limit or 0)} may be used here: "
            f"{self.remedy(context)}."
        )

    def remedy(self, context: int) -> str:
        """What to do when `context` tokens do not fit."""
        if line := self.command(context):
            return f"`{line}` allows it"
        if longest := self.longest():
            return f"a context of {longest:,} tokens fits"
        if self.kv == "bf16":
            return "--kv compact takes about half the cache; beyond that take fewer bits"
        if recipe := self._smaller_recipe():
            return f"its conversion with --recipe {recipe} fits"
        return "take a smaller model or a larger machine"

    def dropped_sentence(self) -> str:
        """Why draft blocks are not loaded; "" where they are, or nobody wants them."""
        if not self.dropped:
            return ""
        whole = replace(self, weights=self.weights + self.dropped)
        short = min(SHORT_CONTEXT, self.config.max_position_embeddings)
        line = whole.command(short)
        cure = f"`{line}` allows them, and " if line else ""
        return (
            f"drafts ({size(self.dropped)}) are not loaded: with them the model needs "
            f"{size(whole.needed(short))} of memory and {size(self.limit or 0)} may be used here; "
            f"{cure}replies are the same without."
        )

    def max_level_sentence(self) -> str:
        """What thinking level max needs here: its least context, and memory for it."""
        there, needed = self.config.max_position_embeddings, self.needed(MAX_LEVEL_CONTEXT)
        text = f"thinking level max asks for a context of at least {MAX_LEVEL_CONTEXT:,} tokens"
        if there < MAX_LEVEL_CONTEXT:
            return f"{text}; this checkpoint has {there:,}"
        if self.fits(MAX_LEVEL_CONTEXT):
            of = "" if self.limit is None else f" of {size(self.limit)} that may be used"
            return f"{text}: {size(needed)} of memory{of}"
        return (
            f"{text}: {size(needed)} of memory, and {size(self.limit or 0)} may be used; "
            f"{self.remedy(MAX_LEVEL_CONTEXT)}"
        )

    def _smaller_recipe(self) -> str | None:
        """The most exact recipe of the same release whose result fits."""
        limit = self.machine.raisable(self.backend) or self.limit or 0
        for recipe, weights in RECIPES.get(release(self.config) or "", {}).items():
            if memory_needed(self.config, weights, SHORT_CONTEXT, self.kv) <= limit:
                return recipe if weights < self.weights else None
        return None


def release(config: "DeepseekV4Config") -> str | None:
    """The release whose sizes a config has, by the names of `RECIPES`."""
    from dsv4_mlx.release.config import FLASH, PRO

    for name, known in (("V4-Flash", FLASH), ("V4-Pro", PRO)):
        if (config.hidden_size, config.num_hidden_layers, config.n_routed_experts) == (
            known.hidden_size, known.num_hidden_layers, known.n_routed_experts,
        ):  # fmt: skip
            return name
    return None


def wants_drafts(kind: "DraftKind", draft: DraftChoice, backend: str) -> bool:
    """Whether draft blocks of `kind` are to be loaded; MTP blocks always, for they are small.

    DSpark's stages are where somebody names them or, on a GPU, leaves it to the program.
    """
    return kind == "mtp" or draft == kind or (draft == "auto" and backend != "cpu")


def drafts_here(
    folder: "ModelFolder",
    draft: DraftChoice,
    kv: "Kv" = "compact",
    *,
    backend: str = "auto",
    machine: Machine | None = None,
) -> tuple[bool, str]:
    """Whether the folder's draft blocks are to be loaded, and why not where memory is short."""
    from dsv4_mlx.about import about

    kind = folder.checkpoint.config.draft_kind
    if kind is None or not wants_drafts(kind, draft, about(backend).backend):
        return False, ""
    if is_small(folder.folder, machine or read_machine()):
        return True, ""
    fit = Fit.of(folder.checkpoint, kv, backend=backend, machine=machine, draft=draft)
    return not fit.dropped, fit.dropped_sentence()


def check(
    folder: "ModelFolder",
    context: int | None = None,
    kv: "Kv" = "compact",
    *,
    backend: str = "auto",
    machine: Machine | None = None,
) -> None:
    """Refuse, with figures and what would fit, a model that this machine has no memory for; its
    drafts are left out first.

    `context` tokens must fit, by default a short conversation. The headers of a model that is small
    beside the memory are not read. Raises UsageError, and CheckpointError for damaged files.
    """
    if is_small(folder.folder, machine or read_machine()):
        return
    fit = Fit.of(folder.checkpoint, kv, backend=backend, machine=machine)
    context = min(context or SHORT_CONTEXT, fit.config.max_position_embeddings)
    if not fit.fits(context):
        raise UsageError(fit.sentence(context))


def size(nbytes: int) -> str:
    """For people: 150.9 GiB, 6 MiB."""
    return f"{nbytes / GIB:.1f} GiB" if nbytes >= GIB else f"{nbytes / (1 << 20):.0f} MiB"


def is_small(folder: Path, machine: Machine) -> bool:
    """Whether nothing needs to be looked up: the files are far smaller than the memory."""
    try:
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except OSError:
        return False
    limit = machine.limit("auto")
    return limit is None or _LARGEST_GROWTH * stored + 2 * WORKING_BYTES <= limit
