"""What a session runs on: a model, the functions of its cache, and the limits of both."""

import operator
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any
from weakref import WeakSet

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dsv4_mlx import cache
from dsv4_mlx.device.memory import HeldMemory, usable_memory
from dsv4_mlx.engine.block import DraftBlock
from dsv4_mlx.engine.drafters import DraftIds, DraftModel, Features, ids_of
from dsv4_mlx.engine.drafting import Drafting
from dsv4_mlx.engine.expert_use import ExpertUse, expert_use
from dsv4_mlx.engine.protocols import Cache, CacheFunctions, LanguageModel, Step
from dsv4_mlx.errors import ContextError, PromptError, UsageError
from dsv4_mlx.sizing.passes import OFFICIAL_BYTES, PASS_TOKENS
from dsv4_mlx.sizing.prefill import chunk_that_fits

SNAPSHOT_BYTES = 1 << 30


class Running:
    """A model and how it is run; it knows token ids only."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        prefill_chunk: int | None = None,
        compiled: bool | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        caches: CacheFunctions | None = None,
        drafts: DraftModel | None = None,
        draft_most: int | None = None,
        draft_demanded: bool = False,
    ) -> None:
        """`prefill_chunk` tokens are read at a time, by default as many as memory is for, 2,048 or
        512. `compiled` says whether a graph that is built once steps a token, by default on a GPU.
        `snapshot_bytes` bounds the snapshots that each session takes by itself. `caches`, or what
        the model calls so, replaces `dsv4_mlx.cache`. `drafts` guesses tokens, at most `draft_most`
        a pass; unless `draft_demanded` it does so where that pays.

        UsageError for a `prefill_chunk` below 1, and for `compiled` with a model that has no step.
        """
        if prefill_chunk is None:
            prefill_chunk = _fitting_chunk(model)
        if prefill_chunk < 1:
            raise UsageError(f"prefill_chunk must be 1 or more, got {prefill_chunk}.")
        self.model = model
        self.config = model.config
        self.prefill_chunk = prefill_chunk
        self._step = _compiled_step(model, compiled)
        self.snapshot_bytes = snapshot_bytes
        own: CacheFunctions = getattr(model, "caches", cache)
        self.caches: CacheFunctions = own if caches is None else caches
        self.memory: HeldMemory = getattr(model, "memory", None) or HeldMemory()
        """What is held for the model; sessions that grow raise it."""
        self.notes: tuple[str, ...] = ()
        """Sentences of whoever loaded the model, for the person who uses it."""
        self.on_expert_use: Callable[[ExpertUse], None] | None = None
        """Hears what each reply of a conversation found of experts in files."""
        self.replies: WeakSet[object] = WeakSet()
        """Sessions that are in the middle of a reply."""
        self.drafting = Drafting(model)
        """What drafts the tokens of replies."""
        self.drafting.draft_with(drafts, draft_most, draft_demanded)

    @property
    def expert_use(self) -> ExpertUse | None:
        """What all timelines found of the model's experts so far; None where all are in memory."""
        return expert_use(getattr(self.model, "expert_reads", dict)())

    def explain(self, error: BaseException) -> None:
        """Raise a KernelError where a kernel is to blame for an error that MLX raised."""
        if (explain := getattr(self.model, "explain", None)) is not None:
            explain(error)

    @property
    def compiled(self) -> bool:
        """Whether one token is stepped by a graph that is built once."""
        return self._step is not None

    @property
    def decodes_many(self) -> bool:
        """Whether more than one reply is under way: all of them are decoded without drafts then."""
        return len(self.replies) > 1

    def begin_reply(self) -> None:
        """Notice weights that were replaced since the last reply."""
        if self._step is not None:
            self._step.keep_up()

    def ask_ahead(self, tokens: Sequence[int], start: int, stop: int) -> None:
        """Let a model that reads rows from files begin with what tokens `start` to `stop` of a
        timeline need, before it is given them."""
        if (ask := getattr(self.model, "ask_ahead", None)) is not None:
            ask(tokens, start, stop)

    def read_ahead(self, cache: Cache, tokens: Sequence[int], inside: Sequence[int]) -> None:
        """Tell a model that works ahead what the call after the next reads, and which moments of it
        `mark` will ask for; before the next call."""
        if (tell := getattr(self.model, "read_ahead", None)) is not None:
            tell(cache, tokens, inside)

    def end_reading(self, cache: Cache) -> None:
        """What `read_ahead` said last does not hold."""
        if (end := getattr(self.model, "end_reading", None)) is not None:
            end(cache)

    def next_logits(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Logits [V] after one more token [1, 1] of one timeline, unevaluated."""
        if self._step is not None:
            return self._step.last_logits(tokens, cache)[0]
        return self.model(tokens, cache=cache)[0, -1]

    def step(self, tokens: mx.array, cache: Cache) -> tuple[mx.array, Features]:
        """Logits [V] after one more token [1, 1], and what a drafter needs; both unevaluated."""
        if not self.drafting.needs_features:
            return self.next_logits(tokens, cache), None
        stepping: Any = self._step or self.model
        logits, features = stepping.last_logits_and_features(tokens, cache)
        return logits[0], features

    def read(self, tokens: mx.array, cache: Cache) -> tuple[mx.array, Features]:
        """Logits [V] after tokens [1, S] of a prompt, and what a drafter needs of them."""
        model: Any = self.model
        if not self.drafting.needs_features:
            return model.last_logits(tokens, cache=cache)[0], None
        logits, features = model.last_logits_and_features(tokens, cache)
        return logits[0], features

    @property
    def blocks(self) -> bool:
        """Whether a step waits for files or machines when it is called, and not when its result is
        wanted."""
        return self.drafting.weights_elsewhere

    @property
    def reads_by_layers(self) -> bool:
        """Whether a prompt passes a layer of the model before the next one begins."""
        return bool(getattr(self.model, "reads_by_layers", False))

    @property
    def pass_tokens(self) -> int:
        """Tokens of a prompt that pass the layers together, in whole chunks."""
        return self.prefill_chunk * max(1, PASS_TOKENS // self.prefill_chunk)

    def read_by_layers(
        self,
        tokens: mx.array,
        cache: Cache,
        moments: Collection[int],
        before: Callable[[int], bool],
    ) -> mx.array | None:
        """Logits [V] after tokens [1, S] of a prompt, evaluated, and moments for `marked`; None
        where `before` a layer said no."""
        model: Any = self.model
        logits = model.read_by_layers(
            tokens, cache, chunk=self.prefill_chunk, moments=moments, before_layer=before
        )
        return None if logits is None else logits[0]

    def read_block(self, token: int, drafts: DraftIds, cache: Cache) -> DraftBlock:
        """Read `token` and the drafts after it, as rows that may be taken back.

        Their bits are those of plain decoding: one call, unevaluated, reads as many rows as have
        them together; on a CPU, where that is one, they are read and evaluated one by one.
        """
        self.caches.begin(cache)
        if len(drafts) < self.drafting.exact_rows:
            block = DraftBlock(_joined(token, drafts))
            block.add(*self._read_rows(mx.array(block.ids)[None], cache))
            return block
        block = DraftBlock([token, *ids_of(drafts)])
        for row in block.rows:
            logits, features = self.step(mx.array([[row]]), cache)
            # Entries that a graph still holds would be copied.
            mx.eval(logits, self.caches.evaluated(cache))
            block.add(logits[None], features)
        return block

    def _read_rows(self, tokens: mx.array, cache: Cache) -> tuple[mx.array, Features]:
        """Logits [S, V] after each of the tokens [1, S], and what a drafter needs of them."""
        if not self.drafting.needs_features:
            return self.model(tokens, cache=cache)[0], None
        model: Any = self.model
        logits, features = model.logits_and_features(tokens, cache)
        return logits[0], features

    @property
    def round_rows(self) -> int:
        """Timelines whose next tokens one call reads with the bits of calls of their own; 1 where
        each has its own call."""
        finding = getattr(self.model, "row_finding", None)
        return 1 if finding is None or self.blocks else int(finding.round_rows)

    def step_together(self, tokens: mx.array, caches: Sequence[Cache]) -> tuple[mx.array, Features]:
        """Logits [B, V] after one more token [1, B] of each of B timelines, and what a drafter
        needs of each, [1, B, ...]; both unevaluated. An error leaves the timelines as they were."""
        go_back = self.caches.standing(caches)
        try:
            if self._step is not None:
                return self._step.logits_together(tokens, caches, self.drafting.needs_features)
            return self._read_rows(tokens, self.caches.side_by_side(caches))
        except BaseException:
            go_back()
            raise

    def close_block(self, block: DraftBlock, cache: Cache) -> None:
        """Leave `cache` as it were had only the rows of `block` that are kept been read."""
        self.caches.commit(cache, block.kept)

    @property
    def max_context(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self.config.max_position_embeddings

    def check(self, tokens: Sequence[int]) -> list[int]:
        """`tokens` as whole numbers; PromptError if no reply to them is possible."""
        ids = [operator.index(token) for token in tokens]
        if not ids:
            raise PromptError("The prompt is empty; give at least one token.")
        if len(ids) >= self.max_context:
            raise ContextError(
                f"The prompt has {len(ids):,} tokens and the model's context holds "
                f"{self.max_context:,}, the reply included; shorten it."
            )
        wrong = next((i for i, t in enumerate(ids) if not 0 <= t < self.config.vocab_size), None)
        if wrong is not None:
            raise PromptError(
                f"Token {wrong} of the prompt is {ids[wrong]}; the model's vocabulary ends at "
                f"{self.config.vocab_size - 1}, so this tokenizer is not the model's."
            )
        return ids


def _joined(token: int, drafts: DraftIds) -> mx.array | list[int]:
    """Ids of a token and the drafts after it, on the device where the drafts are."""
    if not isinstance(drafts, mx.array):
        return [token, *drafts]
    return mx.concatenate([mx.array([token], mx.int32), drafts.astype(mx.int32)])


def _compiled_step(model: LanguageModel, compiled: bool | None) -> Step | None:
    """The step of `model` where it is asked for, or nobody says it and the kernels are a GPU's."""
    if getattr(model, "weights_elsewhere", False):
        if compiled:
            raise UsageError(
                "compiled is True and this model's weights are not all in memory, so that no graph "
                "holds them; leave it out."
            )
        return None
    make: Callable[[], Step] | None = getattr(model, "compiled_step", None)
    if make is None:
        if compiled:
            raise UsageError("compiled is True and this model has no compiled step; leave it out.")
        return None
    if compiled is None:
        compiled = steps_are_compiled(str(model.kernel_plan()["backend"]))  # type: ignore[attr-defined]
    return make() if compiled else None


def steps_are_compiled(backend: str) -> bool:
    """Whether a token is stepped by a graph that is built once where nobody says it.

    On a CPU MLX would run a C++ compiler for a minute, and MLX_DISABLE_COMPILE says no everywhere.
    """
    return backend != "cpu" and "MLX_DISABLE_COMPILE" not in os.environ


def _fitting_chunk(model: LanguageModel) -> int:
    """How many tokens of a prompt are read at a time where nobody says it."""
    plan = getattr(model, "kernel_plan", None)
    backend = "cpu" if plan is None else str(plan()["backend"])
    weights = getattr(model, "part", model)
    if plan is None or not isinstance(weights, nn.Module):
        return chunk_that_fits(model.config, 0, None, backend)
    parameters: Any = tree_flatten(weights.parameters())  # type: ignore[no-untyped-call]
    weight_bytes = sum(array.nbytes for _, array in parameters)
    by_layers = 0
    if (streamed := getattr(model, "streamed", None)) is not None:
        weight_bytes += streamed.facts.nbytes + streamed.whole_layers().nbytes
        by_layers = OFFICIAL_BYTES
    limit = usable_memory()
    return chunk_that_fits(model.config, weight_bytes, limit, backend, by_layers=by_layers)
