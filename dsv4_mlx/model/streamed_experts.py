"""Routed experts of which some are in memory: those that a call wants are fetched before they
multiply.

The products are those of `Experts`, with numbers of slots in the place of numbers of experts, and
every row's sums have the same order, so the bits are the same too. What a layer wants is known on
the host alone, so that each layer waits once for its router; those that choose by token do not.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.experts import Experts
from dsv4_mlx.model.slot_products import multiplied

ExpertIds = npt.NDArray[np.uint32]


class ExpertSlots(Protocol):
    """The experts of one layer that are in memory; see `weights.expert_slots.SlotPool`."""

    @property
    def slots(self) -> int: ...

    @property
    def held(self) -> Mapping[int, int]: ...

    def request(self, experts: Sequence[int], keep: Collection[int] = ()) -> None: ...

    def ask_ahead(self, experts: Sequence[int]) -> None: ...

    def touch(self, experts: Iterable[int]) -> None: ...

    def pending(self, experts: Iterable[int]) -> list[int]: ...

    def wait(self, experts: Iterable[int]) -> None: ...

    def places(self, experts: npt.NDArray[Any]) -> npt.NDArray[Any]: ...

    def read_by(self, product: mx.array) -> None: ...

    def settle(self) -> None: ...


class ExpertFacts(Protocol):
    """The counters of a streamed model; see `weights.expert_store.ExpertStore`."""

    @property
    def nbytes(self) -> int: ...

    @property
    def waited(self) -> float: ...

    def facts(self) -> dict[str, int]: ...

    def require_in_place(self) -> None: ...

    def saw(self, layer: int, ids: ExpertIds) -> None: ...


class StreamedExperts(nn.Module):
    """What `Experts` computes, from slots; it has no parameters that a tool could find."""

    hits_first = True
    """Whether a token's experts that are there multiply while the others are read."""

    def __init__(
        self, number: int, products: Experts, slots: ExpertSlots, store: ExpertFacts
    ) -> None:
        """Layer `number`, whose `products` multiply by arrays of `slots`."""
        super().__init__()
        # Not through Module, which would show what is set as a parameter or a layer.
        object.__setattr__(self, "_products", products)
        self._number, self._slots, self._store = number, slots, store
        self._before: StreamedExperts | None = None
        self._chosen: ExpertIds | None = None
        self.use_whole(None)

    def follow(self, before: "StreamedExperts | None") -> None:
        """`before` is the layer that a call passes first: what it computed is done when this one
        knows what it wants, and is let go of."""
        object.__setattr__(self, "_before", before)

    def use_whole(self, experts: Experts | None, chosen: list[mx.array] | None = None) -> None:
        """Multiply by all experts of the layer, which are in memory for a while; None ends that.
        `chosen` gets the choices uint32 [M, k] of each call."""
        object.__setattr__(self, "_whole", experts)
        object.__setattr__(self, "_told", chosen)
        self.forget()

    def choose(self, ids: ExpertIds) -> None:
        """The next call's tokens choose the experts `ids` [M, k], in whatever way they are asked
        for: it waits for no router, and their reads begin now as far as there is room."""
        self._chosen = ids
        self.ask_ahead(ids)

    def ask_ahead(self, ids: ExpertIds) -> None:
        """Begin to read experts [M, k] that tokens will choose, where slots are enough for all."""
        distinct = latest_last(ids)
        if len(distinct) <= self._slots.slots:
            self._slots.ask_ahead(distinct)

    def forget(self) -> None:
        """The next call waits for its router."""
        self._chosen = None

    def __call__(
        self, x: mx.array, experts: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        """As `Experts`: x [M, D], experts uint32 and weights [M, k] -> outputs [M, k, D], and the
        activated shared expert [M, Is]. Raises what reading raised."""
        if self._whole is not None:
            if self._told is not None:
                self._told.append(experts)
            outputs: tuple[mx.array, mx.array] = self._whole(x, experts, weights, shared)
            return outputs
        ids = self._ids(experts, shared)
        if self._before is not None:
            self._before._slots.settle()
        self._store.saw(self._number, ids)
        distinct = latest_last(ids)
        if len(distinct) > self._slots.slots:
            return self._in_waves(x, ids, distinct, weights, shared)
        self._slots.request(distinct)
        if len(ids) == 1 and self.hits_first:
            pending = set(self._slots.pending(distinct))
            if 0 < len(pending) < len(distinct):
                return self._hits_first(x, ids, pending, weights, shared)
        self._slots.wait(distinct)
        return self._multiplied(x, ids, weights, shared)

    def _ids(self, experts: mx.array, shared: mx.array) -> ExpertIds:
        """The choices on the host, [M, k]. Meanwhile the shared expert begins."""
        chosen, self._chosen = self._chosen, None
        is_known = chosen is not None and chosen.shape == experts.shape
        try:
            for needed in (shared,) if is_known else (experts, shared):
                mx.async_eval(needed)
        except ValueError as error:  # inside of mx.grad, mx.vmap or mx.compile
            raise UsageError(
                "expected a model with all experts in memory, for gradients and compiled graphs, "
                "but found experts that are read from files; load it without expert_memory."
            ) from error
        return np.array(experts) if chosen is None or not is_known else chosen

    def _multiplied(
        self, x: mx.array, ids: ExpertIds, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Products with experts that are there."""
        if ids.size > self._products.most_unsorted and not self._products.on_cpu:
            product, activated = self._rows(x, np.arange(ids.size), ids, weights, shared)
            self._slots.read_by(product)
            return product.reshape(*ids.shape, -1), activated
        places = mx.array(self._slots.places(ids).astype(np.uint32))
        outputs, activated = self._products(x, places, weights, shared)
        self._slots.read_by(outputs)
        return outputs, activated

    def _hits_first(
        self,
        x: mx.array,
        ids: ExpertIds,
        pending: set[int],
        weights: mx.array,
        shared: mx.array,
    ) -> tuple[mx.array, mx.array]:
        """One token's products, of the experts that are there while the `pending` ones are read."""
        late = np.array([int(one) in pending for one in ids[0]])
        there, others = np.flatnonzero(~late), np.flatnonzero(late)
        first, activated = self._multiplied(x, ids[:, there], weights[:, mx.array(there)], shared)
        mx.async_eval(first, activated)
        self._slots.wait(int(one) for one in ids[0])
        rest, _ = self._multiplied(x, ids[:, others], weights[:, mx.array(others)], shared)
        order = np.argsort(np.concatenate([there, others])).astype(np.uint32)
        return mx.concatenate([first, rest], axis=1)[:, mx.array(order)], activated

    def _in_waves(
        self,
        x: mx.array,
        ids: ExpertIds,
        distinct: list[int],
        weights: mx.array,
        shared: mx.array,
    ) -> tuple[mx.array, mx.array]:
        """More experts than slots: half of them at a time, the next ones read meanwhile."""
        held = self._slots.held
        here = [expert for expert in distinct if expert in held]
        ordered = here + [expert for expert in distinct if expert not in held]
        size = max(1, self._slots.slots // 2)
        groups = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        flat = ids.reshape(-1)
        outputs, rows = [], []
        self._slots.request(groups[0])
        for group, following in pairwise([*groups, []]):
            if following:
                self._slots.request(following, keep=group)
            self._slots.wait(group)
            pairs = np.flatnonzero(np.isin(flat, group))
            product, activated = self._rows(x, pairs, ids, weights, shared)
            self._slots.read_by(product)
            mx.async_eval(product)
            outputs.append(product)
            rows.append(pairs)
        self._slots.touch(distinct)
        order = mx.array(np.argsort(np.concatenate(rows)).astype(np.uint32))
        return mx.concatenate(outputs)[order].reshape(*ids.shape, -1), activated

    def _rows(
        self,
        x: mx.array,
        pairs: npt.NDArray[Any],
        ids: ExpertIds,
        weights: mx.array,
        shared: mx.array,
    ) -> tuple[mx.array, mx.array]:
        """Outputs [R, D] of some pairs of a token and an expert, numbers of the flat `ids`."""
        places = self._slots.places(ids.reshape(-1)[pairs])
        return multiplied(self._products, x, pairs, places, ids.shape, weights, shared)


def latest_last(ids: ExpertIds) -> list[int]:
    """The experts among `ids` [M, k], each once, the one that the last tokens chose last."""
    if len(ids) == 1:
        return list(dict.fromkeys(ids[0].tolist()))
    experts, first = np.unique(ids.reshape(-1)[::-1], return_index=True)
    found: list[int] = experts[np.argsort(-first, kind="stable")].tolist()
    return found
