"""Every number a model gives, by bits: parameters, logits, tokens, on the CPU."""

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import dsv4_mlx  # before mlx, which binds to a BLAS when it is loaded

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten

from .addresses import digest

LENGTH, DECODED = 300, 20
"""Longer than two windows of 128, and than 4 x `index_topk` of every checkpoint but nano."""
CHUNKS = (1, 3, 5, 7, 11, 13, 17, 31, 61, 97)


def prompt(vocabulary: int, step: int = 7) -> list[int]:
    """Token ids without a pattern, the same in every checkout."""
    return [(step * i * i + 3 * i + 11) % vocabulary for i in range(LENGTH)]


def parameters(folder: str, numerics: str = "OFFICIAL") -> dict[str, str]:
    """Names, shapes, dtypes and values of the parameters, and the plan of kernels."""
    model = _loaded(folder, None, numerics)
    arrays = dict(tree_flatten(model.parameters()))
    lines = [f"{name} {array.dtype} {array.shape}" for name, array in sorted(arrays.items())]
    values = b"".join(_bytes(arrays[name]) for name in sorted(arrays))
    plan = [f"{kernel} {chosen}" for kernel, chosen in sorted(model.kernel_plan().items())]
    return {
        "names, shapes, dtypes": "\n".join(lines),
        "values": digest(values),
        "fingerprint": str(model.fingerprint),
        "kernel plan": "\n".join(plan),
    }


def logits(folder: str, kv: str | None = None, numerics: str = "OFFICIAL") -> dict[str, str]:
    """Logits of one model in every way to call it."""
    model = _loaded(folder, kv, numerics)
    vocabulary = model.config.vocab_size
    rows = [prompt(vocabulary), prompt(vocabulary, step=13)]
    whole = model.make_cache()
    facts = {"whole": _digest(model(mx.array(rows[:1]), whole))}
    facts["decoded"] = _decoded(model, whole, rows[0][-1:])
    facts["odd chunks"] = _chunked(model, rows[0])
    both = model.make_cache()
    facts["two rows"] = _digest(model(mx.array(rows), both))
    facts["two rows decoded"] = _decoded(model, both, [row[-1] for row in rows])
    facts["without a cache"] = _digest(model(mx.array(rows)))
    if model.mtp:
        facts |= _drafted(model, rows)
    return facts


def sessions(folder: str, kv: str | None = None) -> dict[str, str]:
    """What an engine's session says, after going back, forking and sampling too."""
    model = _loaded(folder, kv, "OFFICIAL")
    tokens = prompt(model.config.vocab_size)
    session = dsv4_mlx.Engine(model, prefill_chunk=64).session()
    facts = {"read": str(session.sync(tokens, places=(100, 200)))}
    facts["greedy"] = _said(session, max_tokens=DECODED, stop_ids=())
    other, moment = session.fork(), session.snapshot()
    sampled = {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01, "top_k": 50, "seed": 5}
    facts["sampled"] = _said(session, max_tokens=9, **sampled, repetition_penalty=1.1)
    facts["forked"] = _said(other, max_tokens=5)
    session.restore(moment)
    facts["restored"] = _said(session, max_tokens=5)
    facts["rewound"] = f"to {session.rewind(200)}, {_said(session, max_tokens=5)}"
    facts["read again"] = str(session.sync(tokens[:150] + tokens[:40]))
    facts["then"] = _said(session, max_tokens=5)
    facts["bytes held"] = str(session.sizes())
    return facts


def _loaded(folder: str, kv: str | None, numerics: str) -> Any:
    model, _ = dsv4_mlx.load(
        folder, backend="cpu", kv=kv, numerics=getattr(dsv4_mlx.Numerics, numerics)
    )
    return model


def _decoded(model: Any, cache: Any, tokens: Sequence[int]) -> str:
    """The greedy tokens of each row, and a digest of all the logits they were chosen by."""
    row, chosen, seen = mx.array(tokens)[:, None], [], []
    for _ in range(DECODED):
        following = model(row, cache)[:, -1]
        row = following.argmax(-1)[:, None]
        chosen.append(row[:, 0].tolist())
        seen.append(_bytes(following))
    return f"{digest(b''.join(seen))} {chosen}"


def _chunked(model: Any, tokens: Sequence[int]) -> str:
    cache = model.make_cache()
    return digest(b"".join(_bytes(model(mx.array([c]), cache)) for c in _chunks(tokens)))


def _chunks(tokens: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for length in (*CHUNKS, LENGTH):
        if tokens[start : start + length]:
            yield tokens[start : start + length]
        start += length


def _drafted(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, str]:
    """What the MTP block predicts: of two rows together, and token by token with its cache."""
    tokens = mx.array(rows)
    streams = model.streams(tokens[:, :-1])
    block = model.mtp[0]
    cache, steps = block.make_cache(), []
    for at in range(12):
        here = slice(at, at + 1)
        predicted = _predicted(model, streams[:1, here], tokens[:1, at + 1 : at + 2], cache)
        steps.append(_bytes(predicted))
    return {
        "MTP": _digest(_predicted(model, streams, tokens[:, 1:], None)),
        "MTP with its cache": digest(b"".join(steps)),
    }


def _predicted(model: Any, streams: mx.array, following: mx.array, cache: Any) -> mx.array:
    predict = model.mtp[0].predict
    if "embed" not in signature(predict).parameters:  # up to 74212a8
        return predict(model, streams, following, cache)
    shared = {"embed": model.model.embed_tokens, "head": model.lm_head}
    return predict(streams, following, cache, **shared)


def _said(session: Any, **options: Any) -> str:
    """Tokens with the bits of their log-probabilities, and the logits that follow."""
    tokens = [f"{token.id}:{token.logprob.hex()}" for token in session.stream(**options)]
    logits = session.snapshot().logits
    assert logits is not None
    return f"{_digest(logits)} {' '.join(tokens)}"


def _digest(array: mx.array) -> str:
    return f"{array.dtype} {array.shape} {digest(_bytes(array))}"


def _bytes(array: mx.array) -> bytes:
    """The bits of an array in any dtype."""
    return np.array(
        array.view(mx.uint8) if array.ndim else array.reshape(1).view(mx.uint8)
    ).tobytes()
