"""The self-test of a load: what was found before on this machine, or else trying."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from platform import mac_ver
from typing import Any, Protocol

import mlx.core as mx

from dsv4_mlx import __version__
from dsv4_mlx.broken_kernels import first_line, is_about_kernels
from dsv4_mlx.cache.layouts import layout_for
from dsv4_mlx.device.row_finding import MOST_ROWS, RowFinding
from dsv4_mlx.exact_rows.attention import compared_attention
from dsv4_mlx.exact_rows.finding import ProductTimes, RowsAlike, find, lowest, measured
from dsv4_mlx.exact_rows.products import WeightReads, compared, forms, multiplied, timed
from dsv4_mlx.exact_rows.whole_pass import pass_is_exact, round_is_exact
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.weights.parameters import ParameterPlan
from metal_kernels import registry, sources
from metal_kernels.contract import ContractError
from metal_kernels.registry import KernelPlan

RECORD_VERSION = 2
"""Of what is tried and kept; findings of other versions are found anew."""


class KeptFindings(Protocol):
    """Findings that outlive a program, by a name for what they depend on."""

    def load(self, machine: str, /) -> Any:
        """What `store` was given for `machine`; None where there is nothing."""
        ...

    def store(self, machine: str, record: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class RowTest:
    """How a load finds how many rows are exact, for a model that drafts."""

    kept: KeptFindings | None = None
    compiled: bool | None = None
    """Whether sessions step a token by a graph that is built once; None as an engine decides."""
    without_weights: bool = False
    """Whether something drafts that needs no weights, so that each model is tried."""
    clock: Callable[[], float] = time.perf_counter
    """Gives seconds."""

    def recorded(self, machine: str) -> RowFinding | None:
        """What was found before on this machine for a model of these shapes."""
        record = None if self.kept is None else self.kept.load(machine)
        return None if record is None else RowFinding.of_record(record)


class LoadedRows:
    """The self-test of one load, known before the weights are read and made once they are."""

    def __init__(self, test: RowTest, kernels: KernelPlan, machine: str) -> None:
        self._test, self._machine = test, machine
        self.found = test.recorded(machine)
        if kernels.left_out:
            reason = f"{', '.join(kernels.left_out)} left out run by references, which keep no bits"
            self.found = RowFinding(1, reason)

    @property
    def rows(self) -> int:
        """Rows of a pass for which kernels are compiled ahead."""
        return MOST_ROWS if self.found is None else self.found.exact_rows

    def decide(self, model: Model, wait: Callable[[], None]) -> None:
        """Let a loaded and joined model read as many rows exactly as were found, or are found now.

        `wait` returns once nothing else uses the GPU. What MLX refuses is a reason too, and is not
        kept.
        """
        if self.found is None:
            wait()
            try:
                self.found = find(ModelTests(model, self._test.compiled, self._test.clock))
            except (RuntimeError, ValueError) as error:
                if not isinstance(error, ContractError) and not is_about_kernels(error):
                    raise
                self.found = RowFinding(1, f"kernels refuse this model ({first_line(str(error))})")
            else:
                if self._test.kept is not None:
                    self._test.kept.store(self._machine, self.found.as_record())
        model.use_exact_rows(self.found.exact_rows)
        model.row_finding = self.found


class ModelTests:
    """The tests of one loaded model; see `RowTests`."""

    def __init__(self, model: Model, compiled: bool | None, clock: Callable[[], float]) -> None:
        self._model, self._compiled, self._clock = model, compiled, clock
        backend = model.ops.backend
        self._ours = registry.bind(backend, exact_rows=MOST_ROWS).ops
        self._theirs = registry.bind(backend).ops
        self._reads = WeightReads()

    @property
    def weight_bytes(self) -> int:
        """What was read of weights so far."""
        return self._reads.nbytes

    def alike(self) -> RowsAlike:
        """Attention and every form of product."""
        found = compared_attention(self._model, self._ours)
        return lowest(found | compared(forms(self._model), self._ours, self._reads))

    def times(self) -> ProductTimes:
        """Of one row, the packed products of some layers in one evaluation."""
        products = timed(self._model, self._reads)
        inputs = [one.input(1) for one in products]
        mx.eval(inputs)
        ours, theirs = (
            partial(multiplied, products, inputs, ops) for ops in (self._ours, self._theirs)
        )
        return measured(ours, theirs, lambda: [mx.zeros(1) + 1], self._clock)

    def pass_is_exact(self, rows: int) -> bool:
        """By the model itself, which reads `rows` exactly meanwhile."""
        return self._found(pass_is_exact, rows)

    def round_is_exact(self, rows: int) -> bool:
        """The same of a token of each of so many timelines."""
        return self._found(round_is_exact, rows)

    def _found(self, test: Callable[[Model, int, bool | None], bool], rows: int) -> bool:
        before = self._model.exact_rows
        self._model.use_exact_rows(rows)
        try:
            return test(self._model, rows, self._compiled)
        finally:
            self._model.use_exact_rows(before)


def storage_of(numerics: Numerics, kv: str | None) -> str:
    """How caches of a model keep rows, as `machine_name` takes it."""
    return layout_for(numerics is Numerics.OFFICIAL, kv).name


def machine_name(
    config: DeepseekV4Config,
    plan: ParameterPlan,
    kernels: KernelPlan,
    dense: str,
    numerics: Numerics,
    storage: str,
) -> str:
    """What a finding depends on: GPU, system, MLX, kernel texts, and the shapes of the model.

    `dense` is the dtype of unpacked matrices, `storage` how caches keep rows.
    """
    forms = [(name, form.shape, form.dtype) for name, form in plan.loaded(dense)]
    facts = {
        "version": [RECORD_VERSION, __version__],
        "backend": kernels.backend,
        "device": mx.device_info().get("device_name", ""),
        "system": mac_ver()[0],
        "mlx": version("mlx"),
        "kernels": sources.digest(),
        "model": [numerics.name, storage, _digest(repr(config)), _digest(repr(forms))],
    }
    return json.dumps(facts, sort_keys=True)


def rows_to_find(
    model: Model, plan: ParameterPlan, kernels: KernelPlan, dense: str, test: RowTest | None
) -> LoadedRows | None:
    """The self-test of a load; None on a CPU, where rows are read one by one, and for a model that
    drafts nothing. `dense` is the dtype of unpacked matrices."""
    if test is None or kernels.backend == "cpu" or not (model["mtp"] or test.without_weights):
        return None
    storage = model.layout.name
    machine = machine_name(model.config, plan, kernels, dense, model.numerics, storage)
    return LoadedRows(test, kernels, machine)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
