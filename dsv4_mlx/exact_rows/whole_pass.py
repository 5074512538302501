"""One pass of a model over several rows and as many steps of it: the end of a self-test.

The rows are those of one timeline, as its drafts are, or each of a timeline of its own.

It reads weights as decoding so many tokens does, once for a GPU, MLX version and kernel text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache import LayerCache, evaluated, fork, new_state
from dsv4_mlx.cache.forms import state_forms
from dsv4_mlx.device.row_finding import MOST_ROWS
from dsv4_mlx.engine.running import Running
from dsv4_mlx.exact_rows.attention import stored_rows
from dsv4_mlx.exact_rows.finding import has_same_bits
from dsv4_mlx.model.v4 import Model
from metal_kernels.shared.formats import hadamard_fp4, store


def pass_is_exact(model: Model, rows: int, compiled: bool | None = None) -> bool:
    """Whether `rows` tokens in one call give logits and a cache with the bits of as many steps.

    Steps are those of sessions without drafts, `compiled` as theirs are, and the call is that of
    sessions with the model's own. The timeline is random; windows of every kind close inside of
    the block. Changes nothing of the model, which reads exact rows already.
    """
    with _unnoticed(model):
        running = Running(model, prefill_chunk=1, compiled=compiled)
        single = timeline(model, block_start(model))
        block, ids = fork(single), _ids(model, rows)
        steps = [_stepped(running, token, single) for token in ids]
        running.drafting.draft_with(model.drafts(), None, demanded=True)
        read = running.read_block(ids[0], ids[1:], block)
        logits = mx.stack(read.logits)
        mx.eval(logits, evaluated(block))
        read.kept = rows
        running.close_block(read, block)
        same = [has_same_bits(logits, mx.stack(steps)), *_kept_alike(block, single)]
        return all(one.item() for one in same)


def round_is_exact(model: Model, rows: int, compiled: bool | None = None) -> bool:
    """The same of a token of each of `rows` timelines, which stand at different places: in some of
    them windows close, and in some indexers select.

    The call is made twice, as one that comes again may be replayed.
    """
    with _unnoticed(model):
        running = Running(model, prefill_chunk=1, compiled=compiled)
        single = [timeline(model, tokens) for tokens in round_places(model, rows)]
        twice, ids = [[fork(one) for one in single] for _ in range(2)], _ids(model, rows)
        steps = mx.stack(
            [_stepped(running, token, one) for token, one in zip(ids, single, strict=True)]
        )
        running.drafting.draft_with(model.drafts(), None, demanded=True)
        same: list[mx.array] = []
        for together in twice:
            logits, _ = running.step_together(mx.array([ids]), together)
            mx.eval(logits, [evaluated(one) for one in together])
            same.append(has_same_bits(logits, steps))
            for one, alone in zip(together, single, strict=True):
                same += _kept_alike(one, alone)
        return all(one.item() for one in same)


@contextmanager
def _unnoticed(model: Model) -> Iterator[None]:
    """Calls inside are not the first of a model."""
    told, model.at_first_call = model.at_first_call, None
    try:
        yield
    finally:
        model.at_first_call = told


def _ids(model: Model, count: int) -> list[int]:
    return [7919 * (number + 1) % model.config.vocab_size for number in range(count)]


def _stepped(running: Running, token: int, cache: list[LayerCache]) -> mx.array:
    """Logits [V] after one more token of a timeline, evaluated with it."""
    logits = running.next_logits(mx.array([[token]]), cache)
    mx.eval(logits, evaluated(cache))
    return logits


def round_places(model: Model, rows: int) -> list[int]:
    """Tokens of each timeline of a round: those of a block, and every other one where indexers
    select, if the model has some."""
    config, start = model.config, block_start(model)
    selecting = [role.ratio for role in config.layer_roles if role.selects]
    later = max(selecting) * (config.index_topk + 1) if selecting else start
    return [(later if row % 2 else start) + row for row in range(rows)]


def block_start(model: Model) -> int:
    """Tokens before a block in whose middle windows of every kind close."""
    config = model.config
    longest = max(config.sliding_window, *(role.ratio for role in config.layer_roles))
    return 2 * longest - MOST_ROWS // 2


def timeline(model: Model, tokens: int) -> list[LayerCache]:
    """The cache of a timeline of random rows; no prompt is read."""
    config, cache = model.config, model.make_cache()
    keys = mx.random.split(mx.random.key(0), len(cache))
    for number, layer in enumerate(cache):
        forms = state_forms(config, model.layout, number, tokens)
        state = new_state(layer.role, layer.layout)
        own = zip(forms, mx.random.split(keys[number], len(forms)), strict=True)
        state.fill(tokens, {name: _random(model, name, *forms[name], key) for name, key in own})
        layer.rows = [state]
    mx.eval(evaluated(cache))
    return cache


def _random(
    model: Model, name: str, shape: tuple[int, ...], dtype: mx.Dtype, key: mx.array
) -> mx.array:
    """Rows of a cache's array as a timeline could have them."""
    config, storage = model.config, model.layout.name
    if name in ("window", "entries"):
        return stored_rows(shape[1], config.head_dim, config.qk_rope_head_dim, storage, key)
    if name == "ids":
        return mx.zeros(shape, dtype)
    width = config.index_head_dim if name == "keys" else shape[-1]
    rows = mx.random.normal((*shape[:-1], width), key=key)
    if name != "keys":
        return rows.astype(dtype)
    return store(rows if storage == "float32" else hadamard_fp4(rows), storage, "key")


def _kept_alike(found: list[LayerCache], expected: list[LayerCache]) -> list[mx.array]:
    same: list[mx.array] = []
    for one, other in zip(found, expected, strict=True):
        arrays: dict[str, Any] = one.rows[0].arrays()
        wanted = other.rows[0].arrays()
        if set(arrays) != set(wanted):
            return [mx.array(False)]
        same += [has_same_bits(arrays[name], wanted[name]) for name in wanted]
    return same
