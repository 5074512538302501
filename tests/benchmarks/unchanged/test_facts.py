"""What the comparison says about facts that are the same, differ, or are missing."""

from benchmarks.unchanged.facts import Line, compared, measured


def test_facts_that_are_the_same_take_a_line_each() -> None:
    facts = {"whole": "1f", "launches": 7}
    lines = [Line("same       logits: whole"), Line("same       logits: launches")]
    assert list(compared("logits", facts, dict(facts))) == lines


def test_a_short_difference_shows_both_values() -> None:
    (line,) = compared("launches", {"flash": 1089}, {"flash": 1090})
    assert line == Line("DIFFERENT  launches: flash: 1089 -> 1090", True)


def test_of_a_long_text_the_lines_that_differ_are_shown() -> None:
    (line,) = compared("help", {"chat": "one\ntwo\nthree"}, {"chat": "one\n2\nthree"})
    shown = ["DIFFERENT  help: chat", "             -two", "             +2"]
    assert line == Line("\n".join(shown), True)


def test_no_more_than_twelve_lines_of_a_difference_are_shown() -> None:
    before, after = ("\n".join(f"{word} {n}" for n in range(20)) for word in ("old", "new"))
    (line,) = compared("help", {"chat": before}, {"chat": after})
    assert line.text.splitlines()[1] == "             -old 0"
    assert line.text.splitlines()[13:] == ["             ... 28 more lines"]


def test_a_fact_that_only_one_has_is_a_difference() -> None:
    lines = list(compared("files", {"gone": "1"}, {"new": "1"}))
    assert lines == [
        Line("DIFFERENT  files: gone: absent after", True),
        Line("DIFFERENT  files: new: absent before", True),
    ]


def test_a_measure_is_no_difference() -> None:
    line = measured("host", "calls", 1000, 1500, " calls")
    assert line == Line("measure    host: calls: 1,000 -> 1,500 calls, x 1.500")
