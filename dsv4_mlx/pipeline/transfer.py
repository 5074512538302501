"""StateArrays from one rank to the other: streams, and the state of timelines for their files.

Every transfer is evaluated on the host before anything is computed with it, since a command buffer
of a GPU must never wait for a network.
"""

import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.files.documents import parse_json
from dsv4_mlx.pipeline.control import Control

_DTYPES = {
    str(dtype).removeprefix("mlx.core."): dtype
    for dtype in (mx.uint8, mx.uint32, mx.int32, mx.float32, mx.bfloat16)
}


class Transfer:
    """StateArrays to and from the other of two ranks."""

    def __init__(self, group: Any, control: Control) -> None:
        """`group` of `mx.distributed`, whose other rank `control` is connected with."""
        self._group, self._control = group, control
        self._other = 1 - group.rank()

    def send(self, array: mx.array) -> None:
        """Hand an array over; returns when MLX has it on its way."""
        array = mx.contiguous(array)
        mx.eval(array)
        with self._reported():
            mx.eval(mx.distributed.send(array, self._other, group=self._group))

    def receive(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """The array that the other rank sends, evaluated."""
        with self._reported():
            array = mx.distributed.recv(shape, dtype, self._other, group=self._group)
            mx.eval(array)
            return array

    def send_all(self, arrays: Mapping[str, mx.array]) -> None:
        """Hand over the arrays that `listed` lists, in its order."""
        for array in arrays.values():
            self.send(array)

    def receive_all(self, listing: bytes) -> dict[str, mx.array]:
        """The arrays that the other rank listed so."""
        return {
            name: self.receive(tuple(shape), _DTYPES[dtype])
            for name, shape, dtype in parse_json(listing)
        }

    def _reported(self) -> "_Reported":
        return _Reported(self._control)


class _Reported:
    """Guards a transfer, and says of a broken one whose end is gone."""

    def __init__(self, control: Control) -> None:
        self._peer, self._guard = control.peer, control.guarded()

    def __enter__(self) -> None:
        self._guard.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._guard.__exit__(kind, error, trace)
        if isinstance(error, RuntimeError):
            reason = " ".join(str(error).split()).rstrip(".")
            raise PipelineError(
                f"{self._peer} has gone while arrays were on their way ({reason}); start both "
                "ranks again."
            ) from error


def listed(arrays: Mapping[str, mx.array]) -> bytes:
    """Names, shapes and dtypes, for `receive_all`."""
    rows = [
        (name, array.shape, str(array.dtype).removeprefix("mlx.core."))
        for name, array in arrays.items()
    ]
    return json.dumps(rows).encode()
