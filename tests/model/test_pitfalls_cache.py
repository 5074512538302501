"""Known pitfalls of state that outlives a call: rows 32 to 35, 37 and 42."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache, LayerState
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.timeline import Timeline
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.v4 import Model
from metal_kernels.shared import formats
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, wrap

PITFALLS = Pitfalls()
TOKENS = small.TOKENS[:150]
TOLERANCE = 1e-4


def three_kinds() -> Model:
    """A sliding, a CSA and an HCA layer, with a window and a top-k that bite."""
    settings = small.config(
        num_hidden_layers=3, num_hash_layers=1, compress_ratios=[0, 4, 128, 0], sliding_window=6
    )
    return small.model(settings, small.weights(settings))


def prefilled(model: Model, tokens: np.ndarray) -> list[LayerCache]:
    cache = model.make_cache()
    if len(tokens):
        mx.eval(model(mx.array(tokens[None]), cache))
    return cache


# --- 32: rows come out of the cache as they went in -----------------------------------------------


def _other_storage(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        wrap(patch, formats, "store", lambda store: lambda x, *how: store(change(x), *how))

    plant.__name__ = name
    return plant


def _eight_bits(x: mx.array) -> mx.array:
    return mx.dequantize(*mx.quantize(x, group_size=32, bits=8), group_size=32, bits=8)


@PITFALLS.row(
    32,
    _other_storage("generic_8_bit_cache", _eight_bits),
    _other_storage("hadamard_before_storing", formats.hadamard),
    _other_storage("fp8_over_all_dims", formats.fp8_roundtrip),
)
def check_stored_rows_are_exactly_what_attention_computed() -> None:
    x = mx.random.normal((1, 9, 128), key=mx.random.key(0))
    kinds = {"latent": formats.fp8_kv(x, 32), "key": formats.hadamard_fp4(x)}
    for kind, rows in kinds.items():
        for storage in ("compact", "bfloat16"):
            stored = formats.store(rows, storage, kind, 32)
            assert mx.array_equal(formats.load_stored(stored, 128, 32, kind), rows)
        stored = formats.store(x, "float32", kind, 32)
        assert mx.array_equal(formats.load_stored(stored, 128, 32, kind), x)


# --- 33: a reused prefix brings its window and open windows ---------------------------------------


def _view_without(name: str, strip) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(view):
            def wrong(self):
                state = view(self)
                strip(state)
                return state

            return wrong

        wrap(patch, LayerState, "view", make)

    plant.__name__ = name
    return plant


def _drop_window(state: LayerState) -> None:
    state.window = None


def _drop_slots(state: LayerState, keep) -> None:
    """Raw rows of the positions, counted from the start of the open window, that `keep` refuses."""
    if state.open_rows is None:
        return
    kept = state.open_rows.shape[1]
    ratio = 4 if kept == 8 else kept
    slots = (mx.arange(kept) - state.position // ratio * ratio) % kept  # 4 to 7: the window before
    state.open_rows = mx.where(keep(slots, ratio)[:, None], state.open_rows, 0)


def _drop_open_rows(state: LayerState) -> None:
    _drop_slots(state, lambda slots, ratio: slots >= ratio)


def _drop_lane(state: LayerState) -> None:
    _drop_slots(state, lambda slots, ratio: slots < ratio)


@PITFALLS.row(
    33,
    _view_without("prefix_without_its_window", _drop_window),
    _view_without("prefix_without_its_open_windows", _drop_open_rows),
    _view_without("prefix_without_its_lane", _drop_lane),
)
def check_a_prefix_is_reused_three_times_alike() -> None:
    model = three_kinds()
    expected = small.logits(model, TOKENS)[137:]
    prefix = prefilled(model, TOKENS[:137])
    moment = caches.snapshot(prefix)
    for _ in range(3):
        forked = caches.fork(prefix)
        found = small.in_chunks(model, TOKENS[137:], [3, 1, 1, 8], forked)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    small.in_chunks(model, TOKENS[:5], [5], prefix)
    caches.restore(prefix, moment)
    found = small.in_chunks(model, TOKENS[137:], [13], prefix)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


# --- 34: trimming --------------------------------------------------------------------------------


def trim_that_claims_success(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LayerCache, "is_trimmable", lambda self: True)
    patch.setattr(LayerCache, "trim", lambda self, n: n)


def trim_that_moves_the_count_only(patch: pytest.MonkeyPatch) -> None:
    def wrong(self, n):
        for row in self.rows:
            row.position -= n
        return n

    patch.setattr(LayerCache, "is_trimmable", lambda self: True)
    patch.setattr(LayerCache, "trim", wrong)


@PITFALLS.row(34, trim_that_claims_success, trim_that_moves_the_count_only)
def check_trimming_is_refused_or_exact() -> None:
    model = three_kinds()
    cache = prefilled(model, TOKENS[:8])  # a CSA window has just closed
    refused = 0
    for layer in cache:
        try:
            layer.trim(1)
        except CacheError as error:
            assert not layer.is_trimmable() and "snapshot" in str(error)
            refused += 1
    if refused == len(cache):
        return
    assert refused == 0
    other = TOKENS[20:23]
    expected = small.logits(model, np.append(TOKENS[:7], other))[7:]
    try:
        found = small.in_chunks(model, other, [3], cache)
    except ValueError as error:
        raise AssertionError("a trimmed cache cannot go on") from error
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


# --- 35: saving at every phase -------------------------------------------------------------------


def _file_without(name: str, strip) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(fill):
            def wrong(state, position, arrays):
                fill(state, position, arrays)
                strip(state)

            return wrong

        wrap(patch, LayerState, "fill", make)

    plant.__name__ = name
    return plant


def _lose_phase(state: LayerState) -> None:
    """As if the buffered rows had been replayed from the start of a window."""
    if state.open_rows is not None:
        state.open_rows = mx.roll(state.open_rows, 1, axis=1)  # type: ignore[call-arg]


@PITFALLS.row(
    35,
    _file_without("file_without_the_window", _drop_window),
    _file_without("file_without_open_windows", _drop_open_rows),
    _file_without("file_without_the_lane", _drop_lane),
    _file_without("file_that_loses_the_phase", _lose_phase),
)
def check_a_file_continues_at_every_phase() -> None:
    """From the first token on, where most parts are still empty, and around position 128."""
    model = three_kinds()
    expected = small.logits(model, TOKENS[:140])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "timeline.safetensors"
        for p in (1, 2, 3, 4, 5, 6, 7, 8, 127, 128, 129):
            tokens = TOKENS[:p].tolist()
            caches.save(path, prefilled(model, TOKENS[:p]), fingerprint="f", tokens=tokens)
            cache, read, *_ = caches.load(path, model=model, fingerprint="f")
            assert read == tokens
            found = small.in_chunks(model, TOKENS[p : p + 6], [1, 5], cache)
            np.testing.assert_allclose(found, expected[p : p + 6], atol=TOLERANCE)


# --- 37: padding ---------------------------------------------------------------------------------


def padding_enters_the_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LayerCache, "_span", lambda self, row, length, ahead: slice(0, length))


def padding_counts_as_positions(patch: pytest.MonkeyPatch) -> None:
    def make(span):
        def wrong(self, row, length, ahead):
            found = span(self, row, length, ahead)
            self.rows[row].position += found.start
            return found

        return wrong

    wrap(patch, LayerCache, "_span", make)


def one_offset_for_all_rows(patch: pytest.MonkeyPatch) -> None:
    """Rope and phases of every row follow the longest one, in multiples of a window."""

    def make(groups):
        def wrong(self, batch, length):
            found = groups(self, batch, length)
            if length == 1:
                longest = max(state.position for _, _, state in found)
                for _, _, state in found:
                    state.position += (longest - state.position) // 4 * 4
            return found

        return wrong

    wrap(patch, LayerCache, "groups", make)


@PITFALLS.row(37, padding_enters_the_state, padding_counts_as_positions, one_offset_for_all_rows)
def check_a_padded_batch_is_its_single_rows() -> None:
    """Left padding by eight, right padding by eight, then two steps together."""
    model = three_kinds()
    short, long = TOKENS[:5], TOKENS[20:33]
    singles = [
        small.in_chunks(model, np.append(row, [7, 8]), [len(row), 1]) for row in (short, long)
    ]
    pad = np.zeros(8, TOKENS.dtype)
    left = np.stack([np.append(pad, short), long]), {"left_padding": [8, 0]}
    right = (
        np.stack([np.append(short, pad), long]),
        {"lengths": [5, 13], "right_padding": [8, 0]},
    )
    for tokens, padding in (left, right):
        cache = model.make_cache()
        for layer in cache:
            layer.prepare(**padding)
        start = 8 if "left_padding" in padding else 0
        found = small.logits(model, tokens, cache)
        np.testing.assert_allclose(found[0, start : start + 5], singles[0][:5], atol=TOLERANCE)
        np.testing.assert_allclose(found[1], singles[1][:13], atol=TOLERANCE)
        for layer in cache:
            layer.finalize()
        for step, token in enumerate((7, 8)):
            found = small.logits(model, np.full((2, 1), token), cache)
            for row, single in zip(found, singles, strict=True):
                np.testing.assert_allclose(row[0], single[step - 2], atol=TOLERANCE)


# --- 42: the end of a turn is read once ----------------------------------------------------------

EOS = small.CONFIG["eos_token_id"]


def eos_never_read(patch: pytest.MonkeyPatch) -> None:
    def make(step):
        def wrong(self, draws, guesses=0):
            moment = caches.snapshot(self.cache)
            drawn, guessed = step(self, draws, guesses)
            if drawn.id == EOS:
                caches.restore(self.cache, moment)
            return drawn, guessed

        return wrong

    wrap(patch, Timeline, "step", make)


def eos_read_twice(patch: pytest.MonkeyPatch) -> None:
    def make(step):
        def wrong(self, draws, guesses=0):
            drawn, guessed = step(self, draws, guesses)
            if drawn.id == EOS:
                self.running.model(mx.array([[EOS]]), self.cache)
            return drawn, guessed

        return wrong

    wrap(patch, Timeline, "step", make)


def eos_missing_from_the_timeline(patch: pytest.MonkeyPatch) -> None:
    def make(step):
        def wrong(self, draws, guesses=0):
            drawn, guessed = step(self, draws, guesses)
            if drawn.id == EOS:
                self.tokens.pop()
            return drawn, guessed

        return wrong

    wrap(patch, Timeline, "step", make)


@PITFALLS.row(42, eos_never_read, eos_read_twice, eos_missing_from_the_timeline)
def check_a_second_turn_equals_a_cold_run() -> None:
    model = three_kinds()
    engine = Engine(model)
    session, script = engine.session(), iter([5, 9, EOS])
    session.sync(TOKENS[:11].tolist())
    reply = [t.id for t in session.stream(9, sampler=lambda _: mx.array(next(script)))]
    assert reply == [5, 9, EOS]
    turn = [*TOKENS[:11].tolist(), *reply]
    assert session.tokens == turn
    second = [*turn, *TOKENS[20:27].tolist()]
    assert session.sync(second).reused == len(turn)
    found, cold = next(session.stream(1)), small.logits(model, np.array(second))[-1]
    assert found.id == int(np.argmax(cold))
    expected = cold.max() - np.logaddexp.reduce(cold)
    np.testing.assert_allclose(found.logprob, expected, atol=TOLERANCE)


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
