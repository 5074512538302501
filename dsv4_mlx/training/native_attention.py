"""`absorbed_attention` in C: one call forward, one backward (`native/attention.c`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training import native
from dsv4_mlx.training.block_attention import BLOCK, Visibility

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
]
_Given = native.structure(
    "_Given",
    ctypes.c_void_p,
    ("residual", "kv", "entries", "query", "out", "sinks", "cosine", "sine", "chosen"),
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


def attention(
    library: ctypes.CDLL,
    given: tuple[mx.array, mx.array, mx.array | None],
    matrices: tuple[mx.array, mx.array, mx.array],
    heads: Heads,
    visible: Visibility,
    rotary: tuple[mx.array, mx.array],
    *,
    pays: bool,
) -> tuple[mx.array, mx.array | None]:
    """Attention from residuals to grouped outputs: [B, S, g O], and [B, S, T] where it `pays`.

    given: residual [B, S, L], rotated rows [B, S, K] and entries [B, T, K] or None; matrices: query
    [H K, L], output [g O, H / g K], sinks [H]; rotary: cosines and sines [S, R / 2]. The second
    result is what each query paid to each entry, summed over heads; it carries no gradient.
    """
    call = _Call(library, given, matrices, heads, visible, rotary, pays)

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> list[mx.array]:
        return call.forward(native.evaluated(given))

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangents: Any, _: Any) -> list[mx.array]:
        return call.backward(native.evaluated([*given, cotangents[0]]))

    arguments = [one for one in (*given, *matrices) if one is not None]
    output, *paid = cast(list[mx.array], core(*arguments))
    return output, paid[0] if paid else None


class _Call:
    """One attention: its sizes, and what the way back needs of the way there."""

    def __init__(
        self,
        library: ctypes.CDLL,
        given: tuple[mx.array, mx.array, mx.array | None],
        matrices: tuple[mx.array, mx.array, mx.array],
        heads: Heads,
        visible: Visibility,
        rotary: tuple[mx.array, mx.array],
        pays: bool,
    ):
        residual, kv, entries = given
        B, S, L = residual.shape
        T = 0 if entries is None else entries.shape[1]
        rope, width = 2 * rotary[0].shape[-1], matrices[1].shape[0] // heads.groups
        self._library, self._pays, self._has_entries = library, pays, entries is not None
        self.shape = _Shape(
            *(heads.heads, heads.groups, B, S, T, kv.shape[-1], rope, L, width),
            *(visible.window, visible.ratio, BLOCK, heads.eps),
        )
        chosen = [] if visible.chosen is None else [visible.chosen]
        self._constants = native.evaluated([*rotary, *chosen])
        self._saved: list[mx.array] = []

    def forward(self, given: list[mx.array]) -> list[mx.array]:
        """[B, S, g O], and [B, S, T]."""
        s, empty = self.shape, native.empty
        tokens, rows = s.batch * s.length, s.batch * (s.length + s.entries)
        weights = self._library.attention_weights
        weights.restype = ctypes.c_size_t
        self._saved = [
            empty(tokens, s.heads * s.rope),
            empty(s.heads, tokens),
            empty(s.heads, rows, s.latent + s.rope + s.output),
            empty(tokens, s.heads * s.rope),
            empty(s.heads * s.batch, weights(ctypes.byref(s))),
        ]
        output = empty(s.batch, s.length, s.groups * s.output)
        paid = empty(s.batch, s.length, s.entries) if self._pays else None
        outputs = native.pointer(output), native.pointer(paid)
        self._library.attention_forward(*self._common(given), *outputs)
        return [output] if paid is None else [output, paid]

    def backward(self, given: list[mx.array]) -> list[mx.array]:
        """Cotangents of what was given, in its order; the last given is the output's."""
        *given, cotangent = given
        found = [native.empty(*one.shape) for one in given]
        pointers = [native.address(one) for one in found]
        if not self._has_entries:
            pointers.insert(2, None)
        self._library.attention_backward(
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
