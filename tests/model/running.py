"""Checkpoints the numbers are compared on, and every way to run a model over a text."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

import dsv4_mlx
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, TINY512, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

TINY_CONFIGS = {"tiny": TINY, "tiny512": TINY512}
NANO = Path(dsv4_mlx.__file__).with_name("nano")
CHECKPOINTS = (*TINY_CONFIGS, "nano")
LENGTHS = (7, 130, 300, 1500)
CHUNKS = (1, 2, 3, 5, 7, 64, 127, 128, 129)
BATCH = (3, 130, 517)

GOLDEN = Path(__file__).parents[1] / "golden" / "logits"


def checkpoint_folder(name: str, parent: Path) -> Path:
    """The official folder of one of CHECKPOINTS, written below `parent` where it is seeded."""
    if name == "nano":
        return NANO
    return write_tiny_checkpoint(parent / name, TINY_CONFIGS[name], tokenizer=False)


def recorded(name: str, folder: Path) -> dict[str, np.ndarray]:
    """What tests/golden/logits holds of a checkpoint: tokens [1500], rows, logits."""
    remedy = f"run `python tests/golden/logits/make_reference.py {name}` (parity extra)"
    path = GOLDEN / f"{name}.npz"
    assert path.is_file(), f"expected {path} but it is not there; {remedy}"
    with np.load(path) as file:
        arrays = dict(file)
    assert arrays["weights"] == weights_digest(folder), f"{name} has other weights now; {remedy}"
    return arrays


def weights_digest(folder: Path) -> str:
    """SHA-256 over the checkpoint's tensors: stored numbers belong to exactly these weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(folder: Path, numerics: Numerics = Numerics.PLAIN) -> Model:
    """The model of `folder` in float32 on the CPU."""
    return load_model(open_checkpoint(folder), dtype=mx.float32, numerics=numerics, backend="cpu")


def pieces(tokens: np.ndarray, sizes: int | Iterable[int]) -> list[np.ndarray]:
    """`tokens` in calls of one size, or of the given sizes and a rest."""
    step = [sizes] * (len(tokens) // sizes) if isinstance(sizes, int) else list(sizes)
    return [part for part in np.split(tokens, np.cumsum(step)) if len(part)]


def around_windows(size: int, length: int) -> list[int]:
    """Calls of `size` tokens; small ones over the ends of the windows of 128 within `length` and
    the windows of 4 beside them, each end at another place of its call, and one call for what lies
    between two."""
    if size >= 64:
        return [size] * (length // size)
    sizes, position = [], 0
    for number, end in enumerate(range(128, length, 128)):
        first = max(end - 9 - number, position)
        calls = -(-(end + 9 - first) // size)
        sizes += [first - position] + [size] * calls
        position = first + calls * size
    return sizes


def feed(model: Model, cache: list[LayerCache], parts: Iterable[np.ndarray]) -> np.ndarray:
    """Logits [S, V] of `parts` fed one after the other into `cache`."""
    logits = []
    for part in parts:
        logits.append(np.array(model(mx.array(part)[None], cache)[0]))
    return np.concatenate(logits)


def run(model: Model, tokens: np.ndarray, sizes: int | Iterable[int] | None = None) -> np.ndarray:
    """Logits [S, V]: one call without a cache, or calls of `sizes` tokens into a new one."""
    if sizes is None:
        return np.array(model(mx.array(tokens)[None])[0])
    return feed(model, model.make_cache(), pieces(tokens, sizes))


def padded(prompts: Sequence[np.ndarray], *, left: bool = False) -> np.ndarray:
    """[B, longest], filled with token 0 behind (or before) each prompt."""
    length = max(map(len, prompts))
    places = [(length - len(p), 0) if left else (0, length - len(p)) for p in prompts]
    return np.stack([np.pad(p, place) for p, place in zip(prompts, places, strict=True)])


def run_batch(
    model: Model, prompts: Sequence[np.ndarray], size: int = 512, *, left: bool = False
) -> list[np.ndarray]:
    """Logits [S_i, V] per prompt of one ragged batch, fed in calls of `size` tokens."""
    tokens = padded(prompts, left=left)
    lengths = [len(p) for p in prompts]
    padding = [tokens.shape[1] - n for n in lengths]
    cache = model.make_cache()
    for layer in cache:
        if left:
            layer.prepare(left_padding=padding)
        else:
            layer.prepare(lengths=lengths, right_padding=padding)
    calls = range(0, tokens.shape[1], size)
    parts = [np.array(model(mx.array(tokens[:, start : start + size]), cache)) for start in calls]
    for layer in cache:
        layer.finalize()
    logits = np.concatenate(parts, axis=1)
    return [
        row[pad:] if left else row[:n] for row, n, pad in zip(logits, lengths, padding, strict=True)
    ]


def mean_kl(reference: np.ndarray, ours: np.ndarray) -> float:
    """Mean over rows of KL(reference || ours), logits [S, V], in nats."""
    p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in _double(reference, ours))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _double(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def assert_parity(reference: np.ndarray, ours: np.ndarray, what: str = "") -> None:
    """The bounds of every comparison with transformers: max |error| 1e-4, mean KL 1e-9."""
    errors = np.abs(reference - ours).max(axis=1)
    worst = int(errors.argmax())
    assert errors[worst] <= 1e-4, f"{what} row {worst}: logits differ by {errors[worst]:.1e}"
    assert mean_kl(reference, ours) <= 1e-9, what
