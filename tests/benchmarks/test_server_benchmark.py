"""The benchmark of the server: what it asks, and what its rows say."""

import pytest

from benchmarks.server import Answered, Server, question, rows_of
from tests.cli.remote.server import text, told_server, usage


def test_questions_begin_each_in_its_own_way() -> None:
    first, second = question(1, 20), question(2, 20)
    assert first.split()[0] != second.split()[0]
    assert len(first.split()) == len(second.split())


def test_a_servers_answer_is_timed_from_its_pieces() -> None:
    with told_server() as told:
        told.says(
            ": reading 1/2 tokens", text("Fo"), text("ur."), text(finish="stop"), usage(9, 0, 3)
        )
        answered = Server(int(told.url.rpartition(":")[2]), "flash").answer("2+2?", 8)
    assert (answered.text, answered.tokens) == ("Four.", 3)
    assert answered.first_s > 0 and answered.rest_s >= 0
    asked = told.asked[0]
    assert (asked["temperature"], asked["max_tokens"], asked["reasoning_effort"]) == (0, 8, "none")


def test_the_cost_of_http_is_of_answers_that_say_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = [Answered(0.1, 1.0, 101, "a", 2.0), Answered(0.1, 1.0, 101, "b", 2.0)]
    served = [Answered(0.2, 1.25, 101, "a", 2.1), Answered(0.2, 10.0, 101, "other", 9.0)]
    rows = rows_of({"engine": engine, "dsv4-chat serve": served}, {"dsv4-chat serve": 2.0})
    said = {(row["what"], row["who"]): row["value"] for row in rows}
    assert said["added to decode", "dsv4-chat serve"] == "20.000"
    assert said["added, processors", "dsv4-chat serve"] == "5.000"
    assert said["start to ready", "dsv4-chat serve"] == "2.000"
    assert said["first token", "engine"] == "0.100"
    assert "1 rounds with other texts" in capsys.readouterr().out
