"""Rounds of a model with Engram: each timeline looks up what its own last tokens say."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine import small_models
from tests.engine.company import Speaker, in_company, one_round, speaking
from tests.engine.replies import SAMPLINGS
from tests.engine.small_models import arrays, same
from tests.model.row_exact import MOST, row_exact_plan

CONFIG = small_models.SELECTING.replace(
    engram=EngramConfig((0, 2), 50, 90, max_ngram_size=4, n_heads=2, head_dim=64)
)
LENGTHS = (124, 2, 66, 31)
"""Windows of 128 and of 4 tokens close, one has read less than an N-gram, and an indexer begins to
select."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("engram"), CONFIG, tokenizer=False)
    token_map = [token % 50 for token in range(CONFIG.vocab_size)]
    (path / TOKEN_MAP_FILE).write_text(json.dumps(token_map))
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Callable[[str], Model]:
    found: dict[str, Model] = {}

    def load(tables: str) -> Model:
        if tables not in found:
            found[tables] = load_model(
                open_checkpoint(folder), dtype=mx.float32, kernels=row_exact_plan(), tables=tables
            )
            found[tables].row_finding = RowFinding(MOST, round_rows=MOST)
        return found[tables]

    return load


def synced(engine: Engine, length: int) -> Session:
    session = engine.session()
    session.sync(small_models.prompt_of(length, CONFIG.vocab_size))
    return session


def speakers(begun: list[Session], count: int = 6) -> list[Speaker]:
    ways = [{}, SAMPLINGS["1.0"], SAMPLINGS["top-p"], {"temperature": 0.7}]
    return [
        speaking(one.fork(), count, **{**way, "seed": number})
        for number, (one, way) in enumerate(zip(begun, ways, strict=False))
    ]


def assert_as_alone(engine: Engine, together: list[Speaker], alone: list[Speaker]) -> list[int]:
    """In company each says what it says alone, by bits, and leaves the same state; how many had
    their token by one call, round by round."""
    joined = []
    while not all(one.ended for one in together):
        joined.append(len(one_round(engine, together)))
    for one, expected in zip(together, alone, strict=True):
        in_company(engine, [expected])
        assert one.said == expected.said
        assert str(one.error) == str(expected.error)
        assert one.session.tokens == expected.session.tokens
        assert same(arrays(one.session), arrays(expected.session))
    return joined


@pytest.mark.parametrize(("tables", "lengths"), [("memory", LENGTHS), ("files", LENGTHS[:2])])
def test_replies_in_company_are_those_alone(
    loaded: Callable[[str], Model], tables: str, lengths: tuple[int, ...]
) -> None:
    engine, count = Engine(loaded(tables), compiled=False), len(lengths)
    begun = [synced(engine, length) for length in lengths]
    together = speakers(begun)
    assert assert_as_alone(engine, together, speakers(begun)) == [0, *[count] * 5, 0]
    assert len({tuple(token.id for token in one.said) for one in together}) == count


def test_a_round_looks_up_other_rows_where_other_tokens_came_before(
    loaded: Callable[[str], Model],
) -> None:
    """The same last token of two timelines, of which one has another before it."""
    engine = Engine(loaded("memory"), compiled=False)
    begun = [engine.session() for _ in range(2)]
    for one, before in zip(begun, (3, 4), strict=True):
        one.sync([7, 8, before, 9])
    steered = [speaking(one.fork(), 3, steer=lambda: 9) for one in begun]
    again = [speaking(one.fork(), 3, steer=lambda: 9) for one in begun]
    assert assert_as_alone(engine, steered, again) == [0, 2, 2, 0]
    ids = [[row.ids for row in one.session._timeline.cache[0].rows] for one in steered]
    assert [[found.tolist() for found in rows] for rows in ids] == [[[[9, 9, 9]]]] * 2


@pytest.mark.parametrize("tables", ["memory", "files"])
def test_a_call_that_fails_takes_back_the_tokens_that_engram_took_in(
    loaded: Callable[[str], Model], tables: str
) -> None:
    """Lookups come before any layer, so all of them have the token when a layer fails."""
    engine = Engine(loaded(tables), compiled=False)
    begun = [synced(engine, length) for length in (125, 31)]
    together, alone = speakers(begun, 4), speakers(begun, 4)

    def append(rows: mx.array) -> None:
        raise RuntimeError("no room for an entry")

    for one in (together[0], alone[0]):  # it closes a window at its third token
        one.session._timeline.cache[2].rows[0].entries.append = append
    assert assert_as_alone(engine, together, alone) == [0, 2, 2, 0, 0]
    assert [str(one.error) for one in together] == ["no room for an entry", "None"]
    assert len(together[0].said) == 2


def test_a_token_that_is_not_taken_leaves_what_engram_remembers(
    loaded: Callable[[str], Model],
) -> None:
    engine = Engine(loaded("memory"), compiled=False)
    begun = [synced(engine, length) for length in (66, 31)]
    together = [speaking(one.fork(), 7) for one in begun]
    one_round(engine, together)
    lines = [line for one in together if (line := one.session.joining) is not None]
    assert engine.start_together(lines) == {}
    for one in together:
        one.stream.close()  # type: ignore[attr-defined]
    for one, before in zip(together, begun, strict=True):
        expected = [token.id for token in before.fork().stream(1 + 3, stop_ids=())]
        assert one.session.tokens[len(before) :] == expected[:1]
        assert [token.id for token in one.session.stream(3, stop_ids=())] == expected[1:]
