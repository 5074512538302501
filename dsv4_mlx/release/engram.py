"""Engram, a memory of N-grams, as facts: which layers have one and how many rows its tables hold.

A row is found by hashing the last tokens (paper arXiv:2601.07372; as V4.1 wires it, without a
convolution). No released DeepSeek-V4 has one: a config.json that has the key `engram` declares it,
and a config without it is a pure V4.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from math import isqrt

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.release.values import require_int

_MOST_ROWS = 1 << 31  # rows are numbered by 32 bits
_MOST = {"max_ngram_size": 16, "n_heads": 256, "head_dim": 1 << 14}
IN_MEMORY_BYTES = 1 << 30
"""Tables together, above which they stay in their files: the published ones have 200 GB."""
KEPT_BYTES = 64 << 20
"""Memory for rows that were read lately, of each table that stays in its files."""
SCALE_GROUP = 32
"""Columns of a row that share one scale."""


def default_layers(layers: int) -> tuple[int, ...]:
    """Where a model of `layers` layers has Engram unless it says so: V4.1's layers 1 and 14 of 40,
    in proportion; the second is left out where it falls on the first."""
    return tuple(sorted({min(1, layers - 1), max(1, round(14 * layers / 40)) % layers}))


@dataclass(frozen=True)
class EngramConfig:
    """The key `engram` of a config; its names are V4.1's without their `engram_`.

    Raises ConfigError, naming the key, for values that make no tables.
    """

    layer_ids: tuple[int, ...]
    """Layers at whose beginning the streams are added to, ascending."""
    compressed_vocab_size: int
    """Token ids after the token map, which counts spellings of one word as one."""
    vocab_size: int
    """Where the primes begin: each head of each order has a table of a prime number of rows."""
    max_ngram_size: int = 4
    """Orders are 2, 3, ... to this one, an order m hashing the last m tokens."""
    n_heads: int = 8
    """Tables of one order."""
    head_dim: int = 256
    """Columns of a row."""
    pad_token_id: int = 2
    """The token that stands before the first one, before it is compressed."""

    def __post_init__(self) -> None:
        if not isinstance(self.layer_ids, tuple) or not self.layer_ids:
            raise ConfigError(
                f"engram.layer_ids is {shown(self.layer_ids)}; expected at least one layer."
            )
        for layer in self.layer_ids:
            require_int("engram.layer_ids", layer, minimum=0)
        if list(self.layer_ids) != sorted(set(self.layer_ids)):
            raise ConfigError(
                f"engram.layer_ids is {shown(list(self.layer_ids))}; expected each layer once, "
                "ascending."
            )
        least = {"max_ngram_size": 2, "vocab_size": 2, "pad_token_id": 0}
        for name in _NUMBERS:
            value = getattr(self, name)
            require_int(f"engram.{name}", value, minimum=least.get(name, 1))
            if value > _MOST.get(name, value):
                raise ConfigError(f"engram.{name} is {value}; expected {_MOST[name]} or less.")
        if self.head_dim % SCALE_GROUP:
            raise ConfigError(
                f"engram.head_dim is {self.head_dim}; rows need a multiple of {SCALE_GROUP}."
            )
        if self.rows_per_token * self.vocab_size >= _MOST_ROWS:
            raise ConfigError(
                f"engram.vocab_size is {self.vocab_size} for each of {self.rows_per_token} tables; "
                f"together they may have fewer than {_MOST_ROWS} rows."
            )

    @property
    def orders(self) -> range:
        """Lengths of the N-grams."""
        return range(2, self.max_ngram_size + 1)

    @property
    def kept_tokens(self) -> int:
        """Tokens before a chunk that its N-grams reach back to."""
        return self.max_ngram_size - 1

    @property
    def rows_per_token(self) -> int:
        """Rows that one token looks up in one layer."""
        return len(self.orders) * self.n_heads

    @property
    def width(self) -> int:
        """Columns of all rows of a token together."""
        return self.rows_per_token * self.head_dim

    @cached_property
    def _primes(self) -> tuple[int, ...]:
        return _next_primes(self.vocab_size, len(self.layer_ids) * self.rows_per_token)

    def primes(self, layer: int) -> tuple[int, ...]:
        """Rows of every table of a layer, by order and then by head; no two tables are alike."""
        start = self.layer_ids.index(layer) * self.rows_per_token
        return self._primes[start : start + self.rows_per_token]

    def table_rows(self, layer: int) -> int:
        """Rows of all tables of a layer, which lie one after the other."""
        return sum(self.primes(layer))

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """`table_rows` of every layer."""
        return tuple(map(self.table_rows, self.layer_ids))

    @property
    def table_bytes(self) -> int:
        """All tables as they are stored: a byte for each number, and one for each scale."""
        return sum(self.num_embeddings) * (self.head_dim + self.head_dim // SCALE_GROUP)

    @property
    def stays_in_files(self) -> bool:
        """Whether the tables are read from files row by row unless somebody says otherwise."""
        return self.table_bytes > IN_MEMORY_BYTES

    @property
    def held_bytes(self) -> int:
        """Memory that the tables take unless somebody says otherwise: all of them, or the rows of
        each that are kept."""
        if not self.stays_in_files:
            return self.table_bytes
        row = self.head_dim + self.head_dim // SCALE_GROUP
        return sum(min(KEPT_BYTES, rows * row) for rows in self.num_embeddings)

    def within(self, layers: int) -> "EngramConfig | None":
        """The same for a model of the first `layers` layers alone."""
        kept = tuple(layer for layer in self.layer_ids if layer < layers)
        if not kept:
            return None
        return EngramConfig(kept, **{name: getattr(self, name) for name in _NUMBERS})


_NUMBERS = (
    "compressed_vocab_size",
    "vocab_size",
    "max_ngram_size",
    "n_heads",
    "head_dim",
    "pad_token_id",
)


@cache
def _next_primes(start: int, count: int) -> tuple[int, ...]:
    """The first `count` primes from `start` on."""
    found: list[int] = []
    number = start
    while len(found) < count:
        if _is_prime(number):
            found.append(number)
        number += 1
    return tuple(found)


def _is_prime(number: int) -> bool:
    if number < 4 or number % 2 == 0:
        return number in (2, 3)
    return all(number % divisor for divisor in range(3, isqrt(number) + 1, 2))
