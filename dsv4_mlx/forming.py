"""One rank of a model on two machines, from its folder to layers that run.

What must be known of the folder before ranks agree (`prepare`), MLX's own connection (`join`), and
the model of rank 0 or the loop of the worker. How ranks meet and agree is `dsv4_mlx.peers`.
"""

import json
import math
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.model.backends import use_backend
from dsv4_mlx.peers.facts import RankFacts
from dsv4_mlx.peers.hostfile import RANKS, Ring, ring_text
from dsv4_mlx.peers.meeting import require_free
from dsv4_mlx.pipeline.control import Control
from dsv4_mlx.pipeline.part import ModelPart
from dsv4_mlx.pipeline.part_loading import load_part
from dsv4_mlx.pipeline.piped import PipelineModel
from dsv4_mlx.pipeline.split import own_parameters, split_of
from dsv4_mlx.pipeline.worker import work
from dsv4_mlx.release.identity import conversion_facts
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.machines import memory_needed
from dsv4_mlx.unloaded import with_engram
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from dsv4_mlx.weights.fingerprint import timeline_fingerprint
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import DTYPE_NAMES, dense_dtype
from metal_kernels.backend import Backend
from metal_kernels.registry import KernelPlan

SHORT_CONTEXT = 8_192
"""Tokens that must fit beside the weights."""


@dataclass(frozen=True)
class RankFolder:
    """An opened folder and this rank's share of it; nothing of its weights is read."""

    checkpoint: Checkpoint
    plan: ParameterPlan
    rank: int
    kernels: KernelPlan
    kv: str
    own: range = range(0)
    """This rank's layers, once it is known what the other folder holds."""

    @property
    def backend(self) -> Backend:
        """What the kernels run on."""
        return self.kernels.backend

    @property
    def held(self) -> tuple[int, int]:
        """The layers that the folder holds: the first, and the one after the last."""
        layers = self.checkpoint.layers
        count = self.checkpoint.config.num_hidden_layers
        return (0, count) if layers is None else (layers.first, layers.stop)

    @property
    def _dense(self) -> str:
        return DTYPE_NAMES[dense_dtype(None, self.backend)]

    def beside(self, other: tuple[int, int]) -> "RankFolder":
        """The same with its own layers, where the other rank's folder holds the layers `other`:
        cut where a folder ends, or else by bytes."""
        count = self.checkpoint.config.num_hidden_layers
        first, last = (other, self.held) if self.rank == 0 else (self.held, other)
        if first[1] < count:
            cut = first[1]
        elif last[0] > 0:
            cut = last[0]
        else:
            cut = split_of(self.plan, count, self._dense).layers[0].start
        return replace(self, own=range(cut, count) if self.rank == 0 else range(cut))

    def facts(self, version: str, host: str, chip: str, memory: int | None) -> RankFacts:
        """What the other rank is told; `memory` is what a model may use here, in bytes."""
        config = self.checkpoint.config
        context = min(SHORT_CONTEXT, config.max_position_embeddings)
        mine = own_parameters(self.plan, self.own, config.num_hidden_layers)
        weights = mine.loaded_bytes(self._dense)
        layers = LayerRange(self.own.start, self.own.stop, config.num_hidden_layers)
        return RankFacts(
            rank=self.rank,
            host=host,
            version=version,
            mlx=str(vars(mx)["__version__"]),
            backend=self.backend,
            gpu=chip,
            memory=memory,
            needed=memory_needed(config, weights, context, cast(Kv, self.kv), layers),
            layers=(self.own.start, self.own.stop),
            held=self.held,
            layer_count=config.num_hidden_layers,
            fingerprint=timeline_fingerprint(self.checkpoint, self.plan),
            recipe=str(conversion_facts(self.checkpoint.folder).get("recipe") or "official"),
            settings={"kv": self.kv},
        )

    def load(self, group: Any) -> ModelPart:
        """This rank's layers, their weights read."""
        return load_part(self.checkpoint, group, kernels=self.kernels, kv=self.kv, own=self.own)


def prepare(folder: Path, rank: int, backend: str, kv: str) -> RankFolder:
    """Open `folder` for one rank. CheckpointError, ConfigError or UsageError where it is none."""
    kernels = use_backend(backend)  # of this process, before its first array
    checkpoint = open_checkpoint(folder)
    plan = with_engram({}, checkpoint, plan_parameters(checkpoint), None)
    return RankFolder(checkpoint, plan, rank, kernels, kv)


def join(
    rank: int,
    ring: Ring,
    limit_s: float,
    *,
    backend: str = "ring",
    rdma: Sequence[Sequence[str | None]] = (),
    is_started: bool = False,
) -> Any:
    """MLX's group of both ranks, after they agreed: an alarm ends the process where it is not made
    within the limit, since MLX waits for ever and lets no other thread run meanwhile.

    `is_started`: MLX's variables are set already. PipelineError where a port is taken.
    """
    if backend == "ring":
        require_free(ring[rank])
    with _variables({} if is_started else _told(rank, ring, backend, rdma)):
        signal.alarm(math.ceil(limit_s))
        try:
            group = mx.distributed.init(strict=True, backend=backend)
        except RuntimeError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise PipelineError(
                f"MLX cannot connect the two ranks ({reason}); let both firewalls pass Python."
            ) from error
        finally:
            signal.alarm(0)
    if group.size() != RANKS:
        raise PipelineError(f"MLX connected {group.size()} ranks, expected {RANKS}.")
    return group


def model_of(part: ModelPart, group: Any, control: Control) -> PipelineModel:
    """What rank 0's engine runs."""
    return PipelineModel(part, group, control)


def follow(part: ModelPart, group: Any, control: Control) -> None:
    """The worker's loop, until rank 0 ends it."""
    work(part, group, control)


def _told(
    rank: int, ring: Ring, backend: str, rdma: Sequence[Sequence[str | None]]
) -> dict[str, str]:
    """MLX's variables; those that name files with their content."""
    told = {"MLX_RANK": str(rank)}
    if backend == "ring":
        return told | {"MLX_HOSTFILE": ring_text(ring)}
    devices = json.dumps([list(one) for one in rdma])
    return told | {"MLX_JACCL_COORDINATOR": ring[0][0], "MLX_IBV_DEVICES": devices}


@contextmanager
def _variables(told: dict[str, str]) -> Iterator[None]:
    """Inside, MLX finds `told` in the environment, contents in files that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dsv4-") as folder:
        for name, value in told.items():
            if name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
                path = Path(folder, name)
                path.write_text(value, encoding="utf-8")
                value = str(path)
            os.environ[name] = value
        try:
            yield
        finally:
            for name in told:
                os.environ.pop(name, None)
