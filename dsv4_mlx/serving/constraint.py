"""Holding an answer to a grammar: what may not come next is masked before a token is drawn.

The grammar is for the answer alone and begins after `</think>`. Reasoning is free, but may not end
the reply or begin a call. A token is drawn as ever and followed through the grammar; one that does
not fit is taken out of the distribution and the draw is made again. Draws without replacement until
one fits give what a mask over all tokens gives, exactly so where no filter such as top-p looks at
the distribution first, for the price of the tokens that are looked at. After some misses all tokens
are looked at, in the order of their bytes, so that what begins alike is looked at once.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol

import mlx.core as mx

from dsv4_mlx.chat.tokens import DSML, END_THINK
from dsv4_mlx.errors import UsageError
from dsv4_mlx.serving.dsml_grammar import CallGrammar
from dsv4_mlx.serving.engine_grammar import EngineVocabulary, engine_grammar_of
from dsv4_mlx.serving.grammar import FIRST_CONTROL, Either, GrammarState, Items
from dsv4_mlx.serving.json_grammar import object_grammar, schema_grammar
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.unheld import unheld

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.generation import Sampler

_MOST_MISSES: Final = 8


class TokenSymbols:
    """What every token of a tokenizer writes, in symbols of grammars; one for all requests."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.controls = frozenset(tokenizer.control_ids.values())
        self.eos_id = tokenizer.eos_id
        written = (
            (tokenizer.token_bytes(token), token)
            for token in range(tokenizer.vocab_size)
            if token not in self.controls
        )
        self.ordered: list[tuple[bytes, int]] = sorted(one for one in written if one[0])
        self._bytes = {token: data for data, token in self.ordered}

    def of(self, token: int) -> Sequence[int]:
        """The symbols of a token; none for one that writes nothing."""
        if token in self.controls:
            return (FIRST_CONTROL + token,)
        return self._bytes.get(token, b"")

    def fitting(self, state: GrammarState) -> list[int]:
        """All tokens that may come next in `state`, EOS not among them."""
        controls = [token for token in self.controls if state.after(FIRST_CONTROL + token)]
        return [*controls, *self._fitting(state, 0, 0, len(self.ordered))]

    def _fitting(self, state: GrammarState, depth: int, start: int, stop: int) -> Iterator[int]:
        """Of the tokens at `start` to `stop`, which share `depth` bytes that led to `state`."""
        while start < stop and len(self.ordered[start][0]) == depth:
            if depth:
                yield self.ordered[start][1]
            start += 1
        while start < stop:
            prefix = self.ordered[start][0][: depth + 1]
            end = self._end(prefix, start, stop)
            if following := state.after(prefix[-1]):
                yield from self._fitting(following, depth + 1, start, end)
            start = end

    def _end(self, prefix: bytes, start: int, stop: int) -> int:
        """Where the tokens end that begin with `prefix`."""
        if prefix[-1] == 0xFF:
            same = (at for at in range(start, stop) if not self.ordered[at][0].startswith(prefix))
            return next(same, stop)
        after = prefix[:-1] + bytes([prefix[-1] + 1])
        return bisect_left(self.ordered, (after, -1), start, stop)


class AnswerState(Protocol):
    """How far an answer is in a grammar."""

    @property
    def is_complete(self) -> bool:
        """Whether it may end here."""
        ...

    def fits(self, token: int) -> bool:
        """Whether a token, EOS apart, may come next."""
        ...

    def fitting(self) -> Sequence[int]:
        """All tokens that may, EOS not among them."""
        ...

    def take(self, token: int) -> None:
        """It goes on with `token`, which is not EOS."""
        ...


class SymbolState:
    """How far an answer is in a grammar of ours."""

    def __init__(self, symbols: TokenSymbols, grammar: Items) -> None:
        self._symbols, self._state = symbols, GrammarState.at(grammar)

    @property
    def is_complete(self) -> bool:
        """Whether it may end here."""
        return self._state.is_complete

    def fits(self, token: int) -> bool:
        """Whether `token` may come next."""
        symbols = self._symbols.of(token)
        return bool(symbols) and bool(self._state.after_all(symbols))

    def fitting(self) -> list[int]:
        """All tokens that may come next."""
        return self._symbols.fitting(self._state)

    def take(self, token: int) -> None:
        """It goes on with `token`."""
        self._state = self._state.after_all(self._symbols.of(token))


class AnswerConstraint:
    """Holds one answer to the grammar that `state` is at the beginning of; without one, or none at
    all, to having no calls.

    Tell it every token by `take`, those that were not drawn with `sampler` too.
    """

    def __init__(self, tokenizer: "Tokenizer", state: AnswerState | None, *, thinks: bool) -> None:
        self._eos = tokenizer.eos_id
        self._end_think = tokenizer.control_ids[END_THINK]
        self._dsml = tokenizer.control_ids.get(DSML)
        self._state = state
        self._thinks = thinks

    def take(self, token: int) -> None:
        """The answer goes on with `token`."""
        if self._thinks:
            self._thinks = token != self._end_think
        elif self._state is not None and token != self._eos:
            self._state.take(token)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        if self._thinks:
            return token != self._dsml and (token != self._eos or self._state is None)
        if self._state is None:
            return token != self._dsml
        return self._state.is_complete if token == self._eos else self._state.fits(token)

    def sampler(self, base: "Sampler") -> "Sampler":
        """`base` over what may come next."""

        def draw(logprobs: mx.array) -> mx.array:
            left = logprobs
            for _ in range(_MOST_MISSES):
                drawn = base(left)
                token: Any = drawn.item()
                if self.allows(token):
                    return drawn
                left = _shares(mx.where(mx.arange(left.size) == drawn, -math.inf, left))
            return base(_shares(mx.where(self._mask(left.size), logprobs, -math.inf)))

        return draw

    def _mask(self, size: int) -> mx.array:
        """Bool [V]: what may come next; EOS where nothing may, as after a draw that was forced."""
        if self._thinks or self._state is None:
            allowed = [token for token in range(size) if self.allows(token)]
        else:
            allowed = [token for token in self._state.fitting() if token < size]
            if self._state.is_complete or not allowed:
                allowed.append(self._eos)
        mask = mx.zeros(size, dtype=mx.bool_)
        mask[mx.array(allowed, dtype=mx.int32)] = True
        return mask


def _shares(logprobs: mx.array) -> mx.array:
    """[V] -> [V] of sum 1. After a bias what is left may be so unlikely that no filter sees it."""
    return logprobs - mx.logsumexp(logprobs)


class Constraints:
    """The constraints of requests to one model; for all threads."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._symbols: TokenSymbols | None = None
        self._vocabulary: EngineVocabulary | None = None

    def of(
        self, request: GenerationRequest, *, thinks: bool
    ) -> Callable[[], AnswerConstraint] | None:
        """Makes the constraint of each answer to `request`; None where it may be anything. The
        grammar is made here; on the model's thread it is only followed.

        UsageError for a choice of tools that there are not, or a schema of too many alternatives.
        """
        names, choice = request.tool_names, request.tool_choice
        bans_calls = bool(names) and not any(map(choice.allows, names))
        state_of = self._state_of(request)
        if state_of is None:
            if not bans_calls:
                return None
            return lambda: AnswerConstraint(self._tokenizer, None, thinks=thinks)
        return lambda: AnswerConstraint(self._tokenizer, state_of(), thinks=thinks)

    def _state_of(self, request: GenerationRequest) -> Callable[[], AnswerState] | None:
        """Makes the beginning of the grammar that each answer is held to."""
        if request.is_schema_alone:
            schema = request.answer_format.schema
            engine = engine_grammar_of(schema, unheld(schema))
            if engine is not None:
                return engine.states(self._engine_vocabulary())
        grammar = self._grammar(request)
        if grammar is None:
            return None
        symbols = self._all_symbols()
        return lambda: SymbolState(symbols, grammar)

    def _all_symbols(self) -> TokenSymbols:
        with self._lock:
            if self._symbols is None:
                self._symbols = TokenSymbols(self._tokenizer)
            return self._symbols

    def _engine_vocabulary(self) -> EngineVocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = EngineVocabulary(self._tokenizer)
            return self._vocabulary

    def _grammar(self, request: GenerationRequest) -> Items | None:
        choice, all_names = request.tool_choice, request.tool_names
        names = [name for name in all_names if choice.allows(name)]
        if choice.kind == "named" and not names:
            raise UsageError(
                f"The tool to call must be one of {', '.join(all_names) or 'the tools given'}, got "
                f"{choice.name!r}."
            )
        if choice.kind == "required" and not names:
            raise UsageError("A call is required and no tools are given; give one.")
        answer = _answer(request)
        if not names:
            return answer
        written = CallGrammar(request.settings.tools, self._tokenizer.control_ids)
        has_to_call, is_narrow = choice.kind in ("required", "named"), len(names) < len(all_names)
        if not (has_to_call or is_narrow or answer is not None):
            return None if request.several_calls else written.at_most_one()
        calls = written.calls(names, several=request.several_calls)
        if has_to_call:
            return calls
        return written.text_and(calls) if answer is None else (Either((answer, calls)),)


def _answer(request: GenerationRequest) -> Items | None:
    match request.answer_format.kind:
        case "json":
            return object_grammar()
        case "schema":
            return schema_grammar(request.answer_format.schema)
    return None
