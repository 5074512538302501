"""A difference that is planted in what programs say or write is found, and nothing else is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.unchanged import checkouts, programs
from benchmarks.unchanged.checkouts import Checkout
from tests.benchmarks.unchanged.programs import checkout, plant

Areas = dict[str, Callable[[Checkout], dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Nobody types here, and two recipes are as good as six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkouts, "PAUSE_S", 0.0)
        patch.setattr(programs, "RECIPES", ("native", "q3"))
        yield


@pytest.fixture(scope="module")
def areas(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Areas:
    """The areas that run programs, on inputs of a checkout before."""
    folder = tmp_path_factory.mktemp("inputs")
    home = folder / "home"
    programs.begin_conversation(checkout(folder / "first"), home, "MODEL")
    return {
        "texts": lambda one: programs.texts(one, "MODEL"),
        "answers": lambda one: programs.answers(one, "MODEL"),
        "conversations": lambda one: programs.conversations(one, home, "MODEL"),
        "conversions": lambda one: programs.conversions(one, "MODEL"),
        "training": programs.training,
    }


@pytest.fixture(scope="module")
def unchanged(areas: Areas, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The facts of every area before anything is planted."""
    folder = tmp_path_factory.mktemp("unchanged")
    return {area: facts(checkout(folder / area)) for area, facts in areas.items()}


def different(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert list(before) == list(after)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("area", ["texts", "answers", "conversations", "conversions", "training"])
def test_two_checkouts_of_one_commit_say_the_same(
    area: str, areas: Areas, unchanged: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    again = areas[area](checkout(tmp_path / "again"))
    assert again and different(unchanged[area], again) == set()


PLANTED = {
    "help of the chat": ("texts", "cli/__main__.py", '"usage:"', '"use:"', "dsv4-chat --help"),
    "help of the converter": (
        "texts",
        "convert/__main__.py",
        '"usage:"',
        '"use:"',
        "dsv4-convert fetch --help",
    ),
    "exit status": (
        "texts",
        "cli/__main__.py",
        'print("usage:", words)',
        'print("usage:", words); sys.exit(len(words) == 1 and words[0] == "--bogus")',
        "an unknown option",
    ),
    "the manual": ("texts", "cli/manual.py", "the manual", "a manual", "manual"),
    "an answer": ("answers", "cli/__main__.py", "You said", "I said", "as JSON"),
    "an answer through mlx-lm": ("answers", "dsv4_mlx/mlx_lm.py", "Hello", "Hallo", "mlx-lm"),
    "a kept conversation": (
        "conversations",
        "cli/__main__.py",
        '"type": "question"',
        '"type": "asked"',
        "kept, its file",
    ),
    "an export": ("conversations", "cli/__main__.py", '"exported"', '"put out"', "exported html"),
    "a written shard": (
        "conversions",
        "convert/__main__.py",
        'b"weights"',
        'b"weight"',
        "q3, model.safetensors",
    ),
    "a measured file": (
        "conversions",
        "convert/__main__.py",
        'b"importance"',
        'b"less"',
        "importance.safetensors",
    ),
    "a trained shard": (
        "training",
        "dsv4_mlx/training/nano.py",
        'b"trained"',
        'b"taught"',
        "model.safetensors",
    ),
}


# One of each area is in the plain suite.
LONG = ("help of the converter", "exit status", "the manual", "an export", "a measured file")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case in LONG)) for case in PLANTED],
)
def test_a_planted_difference_is_found(
    case: str, areas: Areas, unchanged: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    area, file, old, new, name = PLANTED[case]
    after = checkout(tmp_path / "after")
    plant(after, file, old, new)
    assert name in different(unchanged[area], areas[area](after))


def test_a_key_of_json_that_differs_is_named(areas: Areas, tmp_path: Path) -> None:
    after = checkout(tmp_path / "after")
    plant(after, "convert/__main__.py", '"format": 1', '"format": 2')
    assert '\n "format": 2,\n' in areas["conversions"](after)["q3, conversion.json"]


def test_a_probe_that_fails_ends_the_comparison(tmp_path: Path) -> None:
    broken = checkout(tmp_path / "broken")
    plant(broken, "cli/manual.py", "'the manual'", "1 / 0")
    with pytest.raises(SystemExit, match=r"pages\.manual failed in (.|\n)*ZeroDivisionError"):
        programs.texts(broken, "MODEL")
