"""Themes: which one is taken, and that each suits both libraries."""

import pytest

from cli.show.theme import DARK, LIGHT, PLAIN, Theme, theme_named
from dsv4_mlx.errors import UsageError


@pytest.mark.parametrize(
    ("name", "variables", "theme"),
    [
        ("auto", {}, DARK),
        ("auto", {"COLORFGBG": "15;0"}, DARK),
        ("auto", {"COLORFGBG": "0;15"}, LIGHT),
        ("auto", {"COLORFGBG": "0;default;7"}, LIGHT),
        ("light", {"COLORFGBG": "15;0"}, LIGHT),
        ("dark", {"COLORFGBG": "0;15"}, DARK),
        ("plain", {}, PLAIN),
        ("dark", {"NO_COLOR": "1"}, PLAIN),
        ("dark", {"NO_COLOR": ""}, DARK),
        ("auto", {"TERM": "dumb"}, PLAIN),
    ],
)
def test_a_name_and_the_terminal_choose(name: str, variables: dict[str, str], theme: Theme) -> None:
    assert theme_named(name, variables) is theme


def test_an_unknown_theme_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="no theme 'solar'; there are auto, dark, light, plain"):
        theme_named("solar", {})


@pytest.mark.parametrize("theme", [DARK, LIGHT, PLAIN], ids=lambda theme: theme.name)
def test_every_style_is_one_for_its_library(theme: Theme) -> None:
    from prompt_toolkit.styles import Style

    Style.from_dict(dict(theme.prompt_toolkit))
    for role in theme.rich:
        theme.style(role)


def test_plain_has_no_codes_for_text_and_no_colours_for_the_input() -> None:
    assert not PLAIN.rich
    assert PLAIN.style("error").render("x") == "x"
    words = {word for style in PLAIN.prompt_toolkit.values() for word in style.split()}
    assert words <= {"noinherit", "reverse", "noreverse"}
