"""What a model does, on one machine or on two: each gives values that must be the same on both."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.pipeline.link import Held
from tests.engine.small_models import prompt_of

STEPS, CHUNK, VOCABULARY = 4, 48, 512
RAGGED = (7, 13)


def prompt(length: int) -> list[int]:
    return prompt_of(length, VOCABULARY)


def logits_after(model: Any, length: int, chunk: int | None = None) -> np.ndarray:
    """Logits [1 + STEPS, V] after a prompt, read in chunks, and after greedy tokens."""
    cache, ids = model.make_cache(), prompt(length)
    chunk = chunk or length
    for at in range(0, length, chunk):
        found = model.last_logits(mx.array(ids[at : at + chunk])[None], cache)
        mx.eval(found, [a for layer in cache for row in layer.rows for a in row.evaluated()])
    rows = [found[0]]
    for _ in range(STEPS):
        rows.append(model(mx.argmax(rows[-1]).reshape(1, 1), cache)[0, -1])
        mx.eval(rows[-1], [a for layer in cache for row in layer.rows for a in row.evaluated()])
    return np.array(mx.stack(rows))


def ragged(model: Any, functions: Any, *, left: bool = False) -> np.ndarray:
    """Logits [2, rows, V] of prompts of RAGGED lengths read as one batch, and after a token more.

    `functions` prepares and finalizes padding.
    """
    cache, longest = model.make_cache(), max(RAGGED)
    rows = [padded(length, longest, left) for length in RAGGED]
    functions.prepare(cache, RAGGED, left=left, padded=longest)
    read = model(mx.array(rows, mx.int32), cache)
    mx.eval(read)
    functions.finalize(cache)
    ends = [longest if left else length for length in RAGGED]
    last = mx.stack([read[row, end - 1] for row, end in enumerate(ends)])
    after = model(mx.argmax(last, axis=-1).reshape(-1, 1), cache)[:, -1]
    return np.array(mx.stack([last, after]))


def padded(length: int, longest: int, left: bool) -> list[int]:
    padding = [0] * (longest - length)
    return [*padding, *prompt(length)] if left else [*prompt(length), *padding]


def merged(model: Any, functions: Any) -> np.ndarray:
    """Logits [3, V]: of two timelines that became a batch, and of one taken out of it again."""
    caches = [model.make_cache() for _ in RAGGED]
    for length, cache in zip(RAGGED, caches, strict=True):
        mx.eval(model.last_logits(mx.array(prompt(length))[None], cache))
    batch = functions.merge(caches)
    both = model(mx.array([[5], [6]]), batch)[:, -1]
    mx.eval(both)
    one = model(mx.array([[7]]), functions.extract(batch, 1))[0, -1]
    return np.array(mx.stack([*both, one]))


def session_script(model: Any, folder: Path, saved: Path | None = None) -> dict[str, Any]:
    """A conversation's moves: ids and log-probabilities of all that was drawn on the way."""
    engine = Engine(model, prefill_chunk=CHUNK)
    session, drawn = engine.session(), []

    def draw(one: Any, count: int, **settings: Any) -> None:
        drawn.append([(t.id, t.logprob) for t in one.stream(count, stop_ids=(), **settings)])

    read = session.sync(prompt(150), places=(20, 100))
    draw(session, 5)
    moment = session.snapshot()
    draw(session, 4, temperature=0.9, seed=3)
    session.restore(moment)
    draw(session, 4, temperature=0.9, seed=3)
    other = session.fork()
    draw(other, 3, temperature=0.7, seed=1)
    draw(session, 3)
    session.save(folder / "session.cache", {"who": "both"})
    other.rewind(100)
    reread = other.sync([*prompt(100), 9, 8, 7])
    draw(other, 3)
    loaded = engine.session()
    notes = loaded.load(saved or folder / "session.cache")
    loaded.rewind(100)
    again = loaded.sync([*prompt(100), 9, 8, 7])
    draw(loaded, 3)
    early, long = session.snapshot(), session.fork()
    long.sync([*early.tokens, *prompt(900)])
    grown = long.sizes()
    (state,) = engine.caches.compacted([early.state])
    long.restore(replace(early, state=state))
    draw(long, 3)
    assert long.sizes().compressed < grown.compressed
    return {
        "drawn": drawn,
        "compact": list(vars(long.sizes()).values()),
        "syncs": [
            [read.reused, read.read],
            [reread.reused, reread.read],
            [again.reused, again.read],
        ],
        "places": [[place.offset, place.nbytes] for place in session.places],
        "sizes": list(vars(session.sizes()).values()),
        "notes": notes,
    }


def everything(model: Any, out: Path) -> dict[str, Any]:
    """On rank 0: logits for the file of arrays, and what a script saw."""
    arrays = {f"after{length}": logits_after(model, length) for length in (1, 40, 150)}
    arrays["chunked"] = logits_after(model, 150, CHUNK)
    arrays["ragged"] = ragged(model, model.caches)
    arrays["ragged left"] = ragged(model, model.caches, left=True)
    arrays["merged"] = merged(model, model.caches)
    np.savez(out / "logits.npz", **arrays)
    calls, ahead = model.counts.calls, model.counts.ahead
    Engine(model, prefill_chunk=CHUNK).session().sync(prompt(150))
    found: dict[str, Any] = {"chunks": [model.counts.calls - calls, model.counts.ahead - ahead]}
    calls, ahead = model.counts.calls, model.counts.ahead
    for _ in Engine(model, prefill_chunk=CHUNK).session().reading(prompt(150)):
        pass
    found["steps"] = [model.counts.calls - calls, model.counts.ahead - ahead]
    streams = model.counts.stream_bytes
    mx.eval(model(mx.array([[1, 2, 3]])))
    found["stream_bytes"] = model.counts.stream_bytes - streams
    found |= session_script(model, out, out / "one.cache")
    found["failure"] = failure(model)
    found["stopped"] = stopped(model)
    gc.collect()
    last = model.make_cache()
    mx.eval(model.last_logits(mx.array([[5]]), last))
    return found


def failure(model: Any) -> str:
    """What is said of a step that the worker cannot do; it goes on."""
    try:
        model._link.streams(model._link.call(Held(1 << 20, model._link._dropped), _ids(), (1, 1)))
    except PipelineError as error:
        return str(error)
    return ""


def stopped(model: Any) -> list[Any]:
    """A reading that is stopped after its first chunk, when the worker is ahead, and goes on."""
    looks: list[int] = []

    class AfterOne:
        def is_set(self) -> bool:
            looks.append(1)
            return len(looks) > 1

    session = Engine(model, prefill_chunk=CHUNK).session()
    first = session.sync(prompt(150), cancel=AfterOne())
    second = session.sync(prompt(150))
    drawn = [(t.id, t.logprob) for t in session.stream(3, stop_ids=())]
    return [[first.reused, first.read, first.cancelled], [second.reused, second.read], drawn]


def _ids() -> np.ndarray:
    return np.array([[1]], np.int32)
