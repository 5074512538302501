"""docs/claims.md says what benchmarks/results hold."""

import re

from benchmarks import claims


def test_the_page_has_a_mark_for_every_block_and_is_up_to_date() -> None:
    text = claims.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<!-- (?!end)(\w+) -->", text) == list(claims.BLOCKS)
    assert text.count("<!-- end -->") == len(claims.BLOCKS)
    assert text == claims.page(), "run `make pages`"


def test_the_pictures_are_those_of_the_rows_and_the_page_shows_them() -> None:
    text, drawn = claims.PAGE.read_text(encoding="utf-8"), claims.pictures()
    kept = {file.name: file.read_text(encoding="utf-8") for file in claims.PICTURES.glob("*.svg")}
    assert kept == drawn, "run `make pages`"
    assert set(re.findall(r"\]\(claims/([\w.-]+\.svg)\)", text)) == set(drawn)
