"""`calibrate SRC TEXT...`: the importance of every input channel, one layer in memory at a time.

All of the text goes through a layer before the next layer is read. Between layers the streams wait
in a scratch file, in bfloat16, to which the official numerics round them; so a model of 149 GiB
needs the memory of one layer and one chunk of text, and the values are those of the whole model.
"""

import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from convert.importance import MIN_TOKENS, Measured, blocks_of, few_rows, save
from convert.observed import Sums, observe, see
from convert.progress import ProgressDisplay
from convert.recipe import quantizable
from convert.report import size_text
from convert.room import free_bytes
from convert.texts import Text, read_text
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.model.backends import use_backend
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.mtp import MultiTokenPredictor
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.unloaded import pack_layers
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.planning import EMBEDDING, plan_parameters
from dsv4_mlx.weights.reading import dense_dtype, read_weights

_CHUNK_TOKENS = 512
_HEAD = "lm_head"

Chunk = tuple[int, int, int]
"""Which timeline, and its tokens [start, stop)."""


def calibrate(source: Path, texts: Sequence[Path], output: Path, progress: ProgressDisplay) -> None:
    """Measure on the texts and write `output`. UsageError or CheckpointError before any work."""
    _require_file_name(output)
    checkpoint = open_checkpoint(source)
    plan = plan_parameters(checkpoint)
    read = [read_text(path, Tokenizer(checkpoint.folder)) for path in texts]
    timelines = [timeline for text in read for timeline in text.timelines]
    _require_lengths(checkpoint, timelines)
    tokens, needed = sum(map(len, timelines)), _scratch_bytes(checkpoint, timelines)
    free = free_bytes(output)
    if free is not None and free < needed:
        raise UsageError(
            f"The streams of {tokens} tokens need {size_text(needed)}, but {output.parent} has "
            f"only {size_text(free)} free; give less text or another place."
        )
    progress.say(f"calibrating on {tokens} tokens; scratch: {size_text(needed)}", tokens=tokens)
    with _scratch(output.parent) as file:
        found = _Walk(checkpoint, plan, timelines, file, progress).run()
    files = FileSystem(progress.say)
    save(output, found, fingerprint(checkpoint, plan), map(_described, read), files)
    few, experts = few_rows(found)
    progress.say(
        f"done: {output}; {few} of {experts} experts saw fewer than {MIN_TOKENS} tokens and will "
        "have the mean of their layer",
        "done",
        destination=str(output),
        tokens=tokens,
        experts=experts,
        experts_by_mean=few,
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[BinaryIO]:
    """A file that is gone in the end, after a kill too where the disk removes files in use."""
    descriptor, name = tempfile.mkstemp(".partial", "calibrate-", folder)
    try:
        with open(descriptor, "w+b") as file:
            with suppress(OSError):
                os.unlink(name)
            yield file
    finally:
        Path(name).unlink(missing_ok=True)


def _require_file_name(output: Path) -> None:
    if output.suffix != ".safetensors" or output.is_dir():
        raise UsageError(f"-o is {output}, expected the name of a file *.safetensors.")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder; make it first.")


def _require_lengths(checkpoint: Checkpoint, timelines: list[list[int]]) -> None:
    longest, most = max(map(len, timelines)), checkpoint.config.max_position_embeddings
    if longest > most:
        raise UsageError(
            f"A text has {longest} tokens, expected at most the model's context of {most}; cut it "
            "into files."
        )


def _scratch_bytes(checkpoint: Checkpoint, timelines: list[list[int]]) -> int:
    return 2 * sum(map(len, timelines)) * checkpoint.config.hc_mult * checkpoint.config.hidden_size


def _described(text: Text) -> dict[str, Any]:
    return {"name": text.name, "sha256": text.sha256, "tokens": text.tokens}


class _Walk:
    """The model from its first layer to its last, each loaded, run over all text and dropped."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: ParameterPlan,
        timelines: list[list[int]],
        scratch: BinaryIO,
        progress: ProgressDisplay,
    ):
        self._checkpoint, self._plan, self._progress = checkpoint, plan, progress
        self._timelines = timelines
        self._starts = [0, *accumulate(map(len, timelines))]
        # Made of zeros that nothing evaluates: memory is taken when weights are read.
        kernels = use_backend()
        self._model = Model(checkpoint.config, numerics=Numerics.OFFICIAL, plan=kernels)
        pack_layers(self._model, plan.parameters)
        self._dtype = dense_dtype(None, kernels.backend)
        self._streams = _Streams(scratch, checkpoint.config.hc_mult, checkpoint.config.hidden_size)
        self._sums: dict[str, Sums] = {}

    def run(self) -> dict[str, Measured]:
        """What every quantizable matrix was given."""
        layers, drafts = self._model.layers, self._model.mtp
        self._progress.begin(sum(map(_stored_bytes, self._plan.parameters)))
        self._embed()
        for number in range(len(layers)):
            self._layer(
                layers.pop(0),
                f"model.layers.{number}.",
                f"{number + 1} of {number + 1 + len(layers)}",
            )
        self._head()
        for number in range(len(drafts)):
            self._draft(drafts.pop(0), f"mtp.{number}.")
        return {module: sums.measured() for module, sums in self._sums.items()}

    def _embed(self) -> None:
        embedding = self._model.model.embed_tokens
        self._load(embedding, f"{EMBEDDING}.")
        for chunk in self._chunks():
            rows = embedding(self._tokens(chunk))[:, :, None]
            count = self._checkpoint.config.hc_mult
            self._put(chunk, mx.repeat(rows, count, axis=2))

    def _layer(self, layer: DecoderLayer, prefix: str, place: str) -> None:
        self._load(layer, prefix)
        self._observe(layer, prefix)
        cache = self._cache(layer)
        for chunk in self._chunks():
            if chunk[1] == 0:
                cache = self._cache(layer)
            self._put(chunk, layer(self._get(chunk), self._tokens(chunk), cache))
        self._progress.say(f"layer {place}", "layer", prefix=prefix.rstrip("."))

    def _head(self) -> None:
        """The head's input is all that counts: logits are not computed."""
        backbone = self._model.model
        self._load(backbone.hc_head, "model.hc_head.")
        self._load(backbone.norm, "model.norm.")
        parameter = next(one for one in self._plan.parameters if one.module == _HEAD)
        sums = self._new_sums(parameter)
        for chunk in self._chunks():
            see(sums, backbone.hc_head(self._get(chunk), backbone.norm.weight))
        self._progress.advance(_stored_bytes(parameter))

    def _draft(self, block: MultiTokenPredictor, prefix: str) -> None:
        """An MTP block sees the streams after the last layer and the token that came next."""
        self._load(block, prefix)
        self._observe(block, prefix)
        embed = self._model.model.embed_tokens
        cache = block.make_cache()
        for timeline, start, stop in self._chunks():
            if start == 0:
                cache = block.make_cache()
            known = min(stop, len(self._timelines[timeline]) - 1)
            if start == known:
                continue
            chunk = (timeline, start, known)
            following = self._tokens((timeline, start + 1, known + 1))
            streams = self._get(chunk)
            # The head's input is all that counts: logits are not computed.
            mx.eval(block.predict(streams, following, cache, embed=embed, head=lambda x: x))

    def _cache(self, layer: DecoderLayer) -> LayerCache:
        return LayerCache(layer.role, self._model.layout)

    def _load(self, module: nn.Module, prefix: str) -> None:
        """Read the weights whose names begin with `prefix`; what MLX kept of earlier ones goes."""
        gc.collect()  # parts of a layer refer to themselves and would stay a while
        mx.clear_cache()
        chosen = tuple(self._under(prefix))
        weights = read_weights(self._checkpoint, ParameterPlan(chosen, ()), self._dtype)
        named = [(name.removeprefix(prefix), array) for name, array in weights]
        module.load_weights(named, strict=True)
        self._progress.advance(sum(map(_stored_bytes, chosen)))

    def _observe(self, module: nn.Module, prefix: str) -> None:
        """Put a stand-in into the place of every matrix that recipes may quantize."""
        for parameter in filter(quantizable, self._under(prefix)):
            *path, last = parameter.module.removeprefix(prefix).split(".")
            owner: Any = module
            for name in path:
                owner = getattr(owner, name)
            setattr(owner, last, observe(getattr(owner, last), self._new_sums(parameter)))

    def _under(self, prefix: str) -> Iterator[Parameter]:
        return (one for one in self._plan.parameters if one.name.startswith(prefix))

    def _new_sums(self, parameter: Parameter) -> Sums:
        sums = Sums(blocks_of(parameter, self._checkpoint.config), parameter.shape[-1])
        self._sums[parameter.module] = sums
        return sums

    def _chunks(self) -> Iterator[Chunk]:
        for number, tokens in enumerate(self._timelines):
            for start in range(0, len(tokens), _CHUNK_TOKENS):
                yield number, start, min(start + _CHUNK_TOKENS, len(tokens))

    def _tokens(self, chunk: Chunk) -> mx.array:
        timeline, start, stop = chunk
        return mx.array([self._timelines[timeline][start:stop]])

    def _get(self, chunk: Chunk) -> mx.array:
        return self._streams.read(self._row(chunk), chunk[2] - chunk[1])

    def _put(self, chunk: Chunk, streams: mx.array) -> None:
        self._streams.write(self._row(chunk), streams)

    def _row(self, chunk: Chunk) -> int:
        return self._starts[chunk[0]] + chunk[1]


def _stored_bytes(parameter: Parameter) -> int:
    return sum(part.weight.nbytes for part in parameter.parts)


class _Streams:
    """Residual streams of all tokens [N, D] in bfloat16, in a file."""

    def __init__(self, file: BinaryIO, count: int, width: int):
        self._file, self._shape = file, (count, width)
        self._bytes = 2 * count * width

    def read(self, row: int, count: int) -> mx.array:
        """float32 [1, count, N, D]."""
        self._file.seek(row * self._bytes)
        stored = np.frombuffer(self._file.read(count * self._bytes), np.uint16)
        array = mx.array(stored.reshape(1, count, *self._shape))
        return array.view(mx.bfloat16).astype(mx.float32)

    def write(self, row: int, streams: mx.array) -> None:
        """[1, count, N, D], of bfloat16 values; evaluates."""
        self._file.seek(row * self._bytes)
        self._file.write(np.array(streams.astype(mx.bfloat16).view(mx.uint16)).tobytes())
