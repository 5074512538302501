"""`absorbed_attention` in C: one call forward, one backward (`native/attention.c`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training import native
from dsv4_mlx.training.block_attention import BLOCK, Visibility
from dsv4_mlx.training.packing import rows_of

_SIZES = [
    "heads",
    "groups",
    "batch",
    "length",
    "entries",
    "width",
    "rope",
    "latent",
    "output",
    "window",
    "ratio",
    "block",
    "segments",
]
_Given = native.structure(
    "_Given",
    ctypes.c_void_p,
    ("residual", "kv", "entries", "query", "out", "sinks", "cosine", "sine", "segments", "chosen"),
)
_Saved = native.structure(
    "_Saved", ctypes.c_void_p, ("turned_q", "scale", "rows", "turned", "weights")
)
_Cotangents = native.structure(
    "_Cotangents", ctypes.c_void_p, ("residual", "kv", "entries", "query", "out", "sinks")
)


class _Shape(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int) for name in _SIZES), ("eps", ctypes.c_float)]


@dataclass(frozen=True)
class Heads:
    """Heads, output groups, and the epsilon of a query's norm."""

    heads: int
    groups: int
    eps: float


@dataclass
class CAttention:
    """One attention from residuals to grouped outputs; a call computes it, once."""

    library: ctypes.CDLL
    given: tuple[mx.array, mx.array, mx.array | None]
    """Residual [B, S, L], rotated rows [B, S, K], and entries [B, T, K] or None."""
    matrices: tuple[mx.array, mx.array, mx.array]
    """Query [H K, L], output [g O, H / g K], sinks [H]."""
    heads: Heads
    visible: Visibility
    rotary: tuple[mx.array, mx.array]
    """Cosines and sines [S, R / 2] of the tokens' positions."""
    pays: bool
    """Whether what each query paid to each entry, summed over heads, is wanted too."""

    def __post_init__(self) -> None:
        residual, kv, entries = self.given
        B, S, L = residual.shape
        T = 0 if entries is None else entries.shape[1]
        rope, width = 2 * self.rotary[0].shape[-1], self.matrices[1].shape[0] // self.heads.groups
        segments = self.visible.segments
        if segments is None:
            segments = rows_of(B, S).entries(self.visible.ratio if T else 0).segments
        self.shape = _Shape(
            *(self.heads.heads, self.heads.groups, B, S, T, kv.shape[-1], rope, L, width),
            *(self.visible.window, self.visible.ratio, BLOCK, len(segments), self.heads.eps),
        )
        chosen = [] if self.visible.chosen is None else [self.visible.chosen]
        self._constants = native.evaluated([*self.rotary, segments, *chosen])
        self._saved: list[mx.array] = []

    def __call__(self) -> tuple[mx.array, mx.array | None]:
        """[B, S, g O], and where it pays [B, S, T], which carries no gradient."""

        @mx.custom_function  # type: ignore[untyped-decorator]
        def core(*given: mx.array) -> list[mx.array]:
            return self.forward(native.evaluated(given))

        @core.vjp  # type: ignore[untyped-decorator]
        def backward(given: Any, cotangents: Any, _: Any) -> list[mx.array]:
            return self.backward(native.evaluated([*given, cotangents[0]]))

        arguments = [one for one in (*self.given, *self.matrices) if one is not None]
        output, *paid = cast(list[mx.array], core(*arguments))
        return output, paid[0] if paid else None

    @property
    def _has_entries(self) -> bool:
        return self.given[2] is not None

    def forward(self, given: list[mx.array]) -> list[mx.array]:
        """[B, S, g O], and [B, S, T]."""
        s, empty = self.shape, native.empty
        tokens, rows = s.batch * s.length, s.batch * (s.length + s.entries)
        weights = self.library.attention_weights
        weights.restype = ctypes.c_size_t
        self._saved = [
            empty(tokens, s.heads * s.rope),
            empty(s.heads, tokens),
            empty(s.heads, rows, s.latent + s.rope + s.output),
            empty(tokens, s.heads * s.rope),
            empty(s.heads, weights(ctypes.byref(s), native.pointer(self._constants[2]))),
        ]
        output = empty(s.batch, s.length, s.groups * s.output)
        paid = empty(s.batch, s.length, s.entries) if self.pays else None
        outputs = native.pointer(output), native.pointer(paid)
        self.library.attention_forward(*self._common(given), *outputs)
        return [output] if paid is None else [output, paid]

    def backward(self, given: list[mx.array]) -> list[mx.array]:
        """Cotangents of what was given, in its order; the last given is the output's."""
        *given, cotangent = given
        found = [native.empty(*one.shape) for one in given]
        pointers = [native.address(one) for one in found]
        if not self._has_entries:
            pointers.insert(2, None)
        self.library.attention_backward(
            *self._common(given),
            native.pointer(cotangent),
            ctypes.byref(_Cotangents(*pointers)),
        )
        return found

    def _common(self, given: list[mx.array]) -> list[Any]:
        pointers = [native.address(one) for one in given]
        if not self._has_entries:
            pointers.insert(2, None)
        pointers += [native.address(one) for one in self._constants]
        saved = _Saved(*(native.address(one) for one in self._saved))
        return [ctypes.byref(one) for one in (self.shape, _Given(*pointers), saved)]
