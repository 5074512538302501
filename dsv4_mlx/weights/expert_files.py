"""Single experts read from a checkpoint's files, into the arrays in which a product finds them.

A converted folder has an expert's part of each stacked tensor in one range of bytes; the release
has tensors of their own for gate, up and down, which become the same bytes. Nothing is unpacked:
what would have to be (FP8 with a scale per block, bfloat16 experts) has to be converted first.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.naming import is_draft
from dsv4_mlx.weights.forms import AffineForm, Mxfp4Form, Mxfp8Form
from dsv4_mlx.weights.open_files import OpenFiles
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.quantization import SCALE_BYTES
from dsv4_mlx.weights.scales import require_bytes
from dsv4_mlx.weights.streaming import THREADS, Bytes

MATRICES = ("gate_up_proj", "down_proj")
_EXPERTS = ".mlp.experts."
_BF16_EXPONENT = 0x7F80


@dataclass(frozen=True)
class ExpertPart:
    """One array of a layer's experts: where each expert's share lies, and what it is in memory.

    `form` is the array's, [E, ...]. `entries` hold all of it in one tensor, or equally many for
    each expert, in the order of their rows. `limits` bound its bytes where they are scales.
    """

    field: str
    form: TensorForm
    entries: tuple[TensorEntry, ...]
    widened: bool
    """Whether files have bfloat16 numbers where memory has float32."""
    limits: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        """Bytes of one expert in memory."""
        return self.form.nbytes // self.form.shape[0]

    @property
    def file_bytes(self) -> int:
        """Bytes of one expert in files."""
        return sum(entry.nbytes for entry in self.entries) // self.form.shape[0]

    def ranges(self, expert: int) -> Iterator[tuple[TensorEntry, int, int]]:
        """Tensor, start and number of bytes of an expert's ranges, in order."""
        if len(self.entries) == 1:
            (entry,) = self.entries
            yield entry, entry.start + expert * self.file_bytes, self.file_bytes
            return
        each = len(self.entries) // self.form.shape[0]
        for entry in self.entries[expert * each : (expert + 1) * each]:
            yield entry, entry.start, entry.nbytes

    def require_valid(self, entry: TensorEntry, read: Bytes) -> None:
        """CheckpointError for scales as they are in files that a loader would refuse."""
        if self.limits is not None:
            require_bytes(entry, read, *self.limits)
            return
        if self.widened:
            finite = (read.view(np.uint16) & _BF16_EXPONENT) != _BF16_EXPONENT
        else:
            finite = np.isfinite(read.view(np.float32))
        if not finite.all():
            raise CheckpointError(
                f"{entry.name} in {entry.path.name} holds a number that is not finite; download "
                "the file again."
            )


def without_experts(plan: ParameterPlan) -> tuple[ParameterPlan, dict[int, dict[str, Parameter]]]:
    """What is left of a plan, without draft blocks too, when routed experts stay in files, and
    these by layer and matrix."""
    experts: dict[int, dict[str, Parameter]] = {}
    others = []
    for parameter in plan.parameters:
        if is_draft(parameter.module):
            continue
        if _EXPERTS in parameter.module:
            layer, matrix = parameter.module.split(_EXPERTS)
            experts.setdefault(int(layer.rpartition(".")[2]), {})[matrix] = parameter
        else:
            others.append(parameter)
    return ParameterPlan(tuple(others), plan.set_aside), experts


def parts_of(parameter: Parameter) -> tuple[ExpertPart, ...]:
    """The arrays of a stacked matrix; CheckpointError where its bytes are not memory's own."""
    fields = {name.rpartition(".")[2]: form for name, form in parameter.loaded("BF16").items()}
    return tuple(_part(parameter, field, form) for field, form in fields.items())


def _part(parameter: Parameter, field: str, form: TensorForm) -> ExpertPart:
    stored = parameter.form
    entries = tuple(e for part in parameter.parts if (e := getattr(part, field)) is not None)
    is_affine = isinstance(stored, AffineForm)
    limits = None
    if field == "scales" and isinstance(stored, Mxfp4Form | Mxfp8Form):
        limits = SCALE_BYTES[stored.storage]
    widened = is_affine and field != "weight" and entries[0].dtype == "BF16"
    expected = form.nbytes // (2 if widened else 1)
    packed = is_affine or isinstance(stored, Mxfp4Form | Mxfp8Form)
    if not packed or sum(entry.nbytes for entry in entries) != expected:
        raise CheckpointError(
            f"{parameter.module} is stored as {parameter.parts[0].weight.dtype} that loading "
            "unpacks, expected packed experts that can be read one by one; convert the folder "
            "with dsv4-convert and load the result."
        )
    return ExpertPart(field, form, entries, widened, limits)


class ExpertReader:
    """Threads that read experts of all layers; `files` are opened by whoever knows all of them."""

    def __init__(self, files: OpenFiles, threads: int = THREADS) -> None:
        self._files = files
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="experts")

    def begin(
        self, parts: Sequence[ExpertPart], expert: int, rows: Sequence[Bytes]
    ) -> list[Future[None]]:
        """Begin to read an expert, every part into its row uint8 [nbytes]; no row is touched after
        its future is done."""
        return [
            self._pool.submit(self._read, part, expert, row)
            for part, row in zip(parts, rows, strict=True)
        ]

    def require_in_place(self) -> None:
        """CheckpointError where the files are no longer where they were opened."""
        self._files.require_in_place()

    def let_go(self) -> None:
        """Drop what the system's file cache has of the files by now."""
        self._files.let_go()

    def close(self) -> None:
        """Read nothing more and close the files; what was begun is read first."""
        self._pool.shutdown()
        self._files.close()

    def _read(self, part: ExpertPart, expert: int, row: Bytes) -> None:
        raw = np.empty(part.file_bytes, np.uint8) if part.widened else row
        at = 0
        for entry, start, nbytes in part.ranges(expert):
            piece = raw[at : at + nbytes]
            self._files.fill(entry.path, start, [piece.data])
            if part.field != "weight":
                part.require_valid(entry, piece)
            at += nbytes
        if part.widened:  # bfloat16 is the upper half of a float32
            np.left_shift(raw.view(np.uint16), 16, out=row.view(np.uint32), dtype=np.uint32)
