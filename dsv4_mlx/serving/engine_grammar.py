"""Answers held to a schema by llguidance, the extra `grammar`, where ours does not hold all of it.

It is used for an answer of which a schema says all, and only where it leaves out less of the schema
than `json_grammar` does, or where that refuses the schema. It wants an object's properties in the
order in which they are named; ours takes any. Where calls may come too our own grammar stays, since
the engine knows nothing of DSML.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from dsv4_mlx.errors import UsageError
from dsv4_mlx.serving.engine_schema import engine_schema
from dsv4_mlx.serving.json_grammar import schema_grammar

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer

_BYTES: Final = "byte"
"""The engine's name for a vocabulary of the bytes alone."""
_LIMITS: Final[Mapping[str, Any]] = {
    # By the engine's own figures 90 ms of a mask and 200 MB of states at most. Where they are
    # reached the answer ends with an error, so they are above its own ones, except that of memory.
    "step_lexer_fuel": 1_000_000,
    "step_max_items": 250_000,
    "max_items_in_row": 20_000,
    "max_lexer_states": 100_000,
    # So that a schema is taken or not whatever the vocabulary is.
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}


class EngineVocabulary:
    """The tokens of a model as the engine takes them: bytes, which may be parts of characters, and
    control tokens, which no grammar of a schema lets pass. One for all requests."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, None
        self.special_token_ids = sorted(tokenizer.control_ids.values())
        controls = frozenset(self.special_token_ids)
        self.tokens = [
            b"" if token in controls else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        self._tokenizer = tokenizer
        engine = _engine()
        slices = engine.LLTokenizer.json_slices()
        self.tokenizer: Any = engine.LLTokenizer(engine.TokenizerWrapper(self), slices=slices)

    def __call__(self, text: str) -> list[int]:
        """What the engine would ask for a text's own tokens; `no_forcing` keeps it from that."""
        return self._tokenizer.encode(text)


@dataclass(frozen=True)
class EngineGrammar:
    """A schema that the engine takes."""

    text: str
    unheld: tuple[str, ...]
    """Keywords of the schema that it does not hold to."""

    def states(self, vocabulary: EngineVocabulary) -> "Callable[[], EngineState]":
        """Makes the beginning of each answer. The grammar is compiled here, and its memory goes
        with the last of them. UsageError where that takes too much."""
        matcher = _matcher(vocabulary.tokenizer, self.text)
        if matcher.is_error():
            raise UsageError(
                "The schema takes the grammar engine more than it may use; give a smaller one."
            )
        return lambda: EngineState(matcher.deep_copy(), vocabulary)


class EngineState:
    """How far an answer is in a schema's grammar; see `constraint.AnswerState`."""

    def __init__(self, matcher: Any, vocabulary: EngineVocabulary) -> None:
        self._matcher, self._eos = matcher, vocabulary.eos_token_id
        self._size = len(vocabulary.tokens)

    @property
    def is_complete(self) -> bool:
        """Whether it may end here."""
        return bool(self._checked(self._matcher.is_accepting()))

    def fits(self, token: int) -> bool:
        """Whether `token` may come next. UsageError where the engine gives up."""
        # Behind the end, and for a token that it does not have, it would give up.
        if self._checked(self._matcher.is_stopped()) or token >= self._size:
            return False
        return bool(self._checked(self._matcher.validate_tokens([token])))

    def fitting(self) -> list[int]:
        """All tokens but EOS that may come next. UsageError where the engine gives up."""
        import numpy as np  # the program that listens for clients needs none

        bits = np.frombuffer(self._checked(self._matcher.compute_bitmask()), np.uint8)
        tokens: list[int] = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
        return [token for token in tokens if token != self._eos]

    def take(self, token: int) -> None:
        """It goes on with `token`."""
        self._matcher.consume_token(token)

    def _checked(self, found: Any) -> Any:
        """What the engine found, unless it gave up meanwhile."""
        if self._matcher.is_error():
            raise UsageError(
                "The grammar engine cannot follow the answer in its schema; give a simpler one."
            )
        return found


def engine_grammar_of(schema: Mapping[str, Any], unheld: Sequence[str]) -> EngineGrammar | None:
    """The engine's grammar of a schema where it is to be used; `unheld` is what ours leaves out.
    None where ours is: it holds all, or no less, the engine refuses the schema, or is not there."""
    left_out = set(unheld) - {"oneOf"}  # which neither holds where alternatives overlap
    if not left_out and not _is_refused(schema):
        return None
    if _engine() is None or (written := engine_schema(schema)) is None:
        return None
    warnings = _warnings(written.text)
    if warnings is None or any(not one.startswith("oneOf ") for one in warnings):
        return None
    names = dict.fromkeys((*written.unheld, *(("oneOf",) if warnings else ())))
    if names.keys() - {"oneOf"} < left_out or _is_refused(schema):
        return EngineGrammar(written.text, tuple(names))
    return None


def _is_refused(schema: Mapping[str, Any]) -> bool:
    """Whether our own grammar refuses a schema."""
    try:
        schema_grammar(schema)
    except UsageError:
        return True
    return False


def _engine() -> Any:
    """The package, if it is there."""
    try:
        import llguidance
    except ImportError:
        return None
    return llguidance


@cache
def _bytes_alone() -> Any:
    return _engine().LLTokenizer(_BYTES)


@lru_cache(maxsize=8)
def _warnings(text: str) -> tuple[str, ...] | None:
    """What the engine warns of in a schema; None for one that it refuses. It is told before a model
    is there, so of the bytes alone."""
    matcher = _matcher(_bytes_alone(), text)
    return None if matcher.is_error() else tuple(matcher.get_grammar_warnings())


def _matcher(tokenizer: Any, text: str) -> Any:
    """A schema's grammar at its beginning; in error if it is none that can be followed."""
    engine = _engine()
    # What is forced is drawn as everything else, by whichever tokens write it.
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {text}'
    limits = engine.LLParserLimits(**_LIMITS)
    matcher = engine.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher
