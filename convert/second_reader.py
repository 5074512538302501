"""A shard as the safetensors library reads it, beside what we read: no reader judges itself."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.paths import utf8_spelling
from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry


def require_agreement(path: Path, entries: Mapping[str, TensorEntry]) -> None:
    """CheckpointError unless the library finds the tensors that we found, in the same order.

    It accepts no gaps between tensors, so the same forms in the same order are the same bytes.
    """
    ours = sorted(entries.values(), key=lambda entry: (entry.start, entry.nbytes))
    mine = {entry.name: TensorForm(entry.dtype, entry.shape) for entry in ours}
    theirs = _library_forms(path)
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{name} in {path.name} is {_described(theirs.get(name))} to the safetensors "
                f"library, expected {_described(mine.get(name))}; convert again."
            )
    for name, other in zip(mine, theirs, strict=True):
        if name != other:
            raise CheckpointError(
                f"{path.name} has {other} where we read {name}, says the safetensors library, "
                "expected one order; convert again."
            )


def _library_forms(path: Path) -> dict[str, TensorForm]:
    """Dtype and shape of every tensor by name, in the order of the file."""
    try:
        with utf8_spelling(path) as name, safe_open(name, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            return {
                name: TensorForm(one.get_dtype(), tuple(one.get_shape()))
                for name, one in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The safetensors library refuses {path.name} ({error}); convert again."
        ) from error


def _described(form: TensorForm | None) -> str:
    return "absent" if form is None else f"{form.dtype} {list(form.shape)}"
