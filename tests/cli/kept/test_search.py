"""/search: what is kept is found, literally and whatever the case, and opened where it stands."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.kept import session_search
from cli.kept.session_search import excerpts, folded_words, search, texts
from cli.kept.sessions import SessionStore
from dsv4_mlx.chat.turns import Turn
from tests.cli.kept_turns import begun, store, turn
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder

PIECES = [
    *(
        "sky",
        "SKY",
        "Blue",
        "blue sky",
        "straße",
        "STRASSE",
        "İ",
        "i",
        "é",
        "e\u0301",
        "你好",
        "🙂",
    ),
    *('"quoted"', "back\\slash", "a\nb", "tab\there", "\x1b[2J", ".*", "(", "x" * 200, "a", "\x00"),
    *("a\u2066b", "del\x7fete"),  # escaped in a file
    "no such word",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=5).map(" ".join)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    question = draw(TEXT)
    if draw(st.booleans()):
        return turn(question, draw(TEXT))
    function = {"name": "look", "arguments": f'{{"at": "{draw(st.sampled_from(["sky", "é"]))}"}}'}
    call = {"id": "call_1", "type": "function", "function": function}
    said = {"role": "assistant", "content": "", "reasoning_content": "no such word"}
    return Turn(
        (
            {"role": "user", "content": question},
            {**said, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": draw(TEXT)},
            {**said, "content": draw(TEXT), "tool_calls": []},
        )
    )


def expected(sessions: SessionStore, kept: dict[str, list[Turn]], query: str) -> list:
    """Every turn that has the words, by looking at all of them."""
    found = []
    for summary in sessions.summaries():
        for number in range(len(kept[summary.id]), 0, -1):
            said = "\n".join(text for _, text in texts(kept[summary.id][number - 1])).casefold()
            if all(word in said for word in folded_words(query)):
                found.append((summary.id, number))
    return found


@settings(max_examples=40)
@given(
    conversations=st.lists(st.lists(turns(), min_size=1, max_size=4), max_size=4),
    query=st.lists(st.sampled_from(PIECES), min_size=1, max_size=2).map(" ".join),
    most=st.sampled_from([1, 20]),
    rewound=st.booleans(),
)
def test_it_finds_what_looking_at_everything_finds(
    conversations: list[list[Turn]], query: str, most: int, rewound: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_search, "MOST_HITS", most)
        sessions = store(Path(folder))
        kept = {}
        for number, said in enumerate(conversations):
            with sessions.create("a model") as log:
                for one in said:
                    # Equal turns of one conversation count once; here none are.
                    question = {**one.messages[0], "content": f"{one.text} {len(kept)}.{number}"}
                    log.add_turn(Turn((question, *one.messages[1:])))
                if rewound and len(said) > 1:
                    log.rewind(len(said) - 1)
                sizes = len(said) - (rewound and len(said) > 1)
                _, saved = reopened(sessions, log)
                kept[log.id] = list(saved)
                assert len(saved) == sizes
        all_of_it = unique(expected(sessions, kept, query), kept)
        found = search(sessions, query)
        assert [(hit.summary.id, hit.number) for hit in found.hits] == all_of_it[:most]
        assert found.more == len(all_of_it) - len(found.hits)
        assert not found.unreadable
        for hit in found.hits:
            shown = hit.excerpts
            marked = "".join(p for one in shown for p, is_word in one.pieces if is_word)
            assert marked
            assert not any(c in piece for one in shown for piece, _ in one.pieces for c in "\x1b\n")


def reopened(sessions: SessionStore, log) -> tuple[object, tuple[Turn, ...]]:
    log.close()
    again, saved = sessions.open(sessions.find(log.id))
    again.close()
    return again, saved.turns


def unique(found: list, kept: dict[str, list[Turn]]) -> list:
    seen, chosen = [], []
    for id, number in found:
        if (id, kept[id][number - 1]) not in seen:
            seen.append((id, kept[id][number - 1]))
            chosen.append((id, number))
    return chosen


def test_the_newest_comes_first_and_a_fork_repeats_nothing(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    parent = begun(sessions, "blue one", "red", "blue two", name="first")
    child = sessions.create("a model", name="second", parent=parent.id)
    for text in ("blue one", "blue three"):
        child.add_turn(turn(text))
    parent.close()
    child.close()
    found = search(sessions, "blue")
    numbers = [(hit.summary.name, hit.number) for hit in found.hits]
    assert sorted(numbers) == [("first", 3), ("second", 1), ("second", 2)] or sorted(numbers) == [
        ("first", 1),
        ("first", 3),
        ("second", 2),
    ]


@pytest.mark.parametrize("word", ["a\u2066b", "del\x7fete", "\x90"])
def test_what_a_file_holds_escaped_is_found(tmp_path: Path, word: str) -> None:
    sessions = store(tmp_path)
    begun(sessions, f"see {word} there")
    assert len(search(sessions, word).hits) == 1


def test_damaged_files_are_passed_over_and_what_stands_before_damage_is_found(
    tmp_path: Path,
) -> None:
    sessions = store(tmp_path)
    for name in ("whole", "half"):
        begun(sessions, "blue", "blue again", name=name).close()
    (tmp_path / "sessions" / "20200101-000000-000-aaaaaa.jsonl").write_text("nonsense\n")
    half = tmp_path / "sessions" / f"{sessions.find('half').id}.jsonl"
    half.write_bytes(half.read_bytes()[:-30] + b"x" * 29 + b"\n")
    found = search(sessions, "blue")
    assert found.unreadable == 1
    assert sorted((hit.summary.name, hit.number) for hit in found.hits) == [
        *[("half", 1), ("whole", 1), ("whole", 2)]
    ]


def test_there_is_a_bound_and_it_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = store(tmp_path)
    for _ in range(3):
        begun(sessions, "blue").close()
    monkeypatch.setattr(session_search, "MOST_BYTES", 700)
    found = search(sessions, "blue")
    assert len(found.hits) + found.unread == 3
    assert found.unread
    with pytest.raises(KeyboardInterrupt):
        search(sessions, "blue", lambda: True)


def test_an_excerpt_shows_the_words_and_what_surrounds_them() -> None:
    (one,) = excerpts(turn(f"{'a ' * 100}the Blue\n\nSKY{' z' * 100}"), ["blue", "sky"])
    assert "".join(piece for piece, _ in one.pieces).count("the Blue SKY") == 1
    assert [piece for piece, is_word in one.pieces if is_word] == ["Blue", "SKY"]
    assert one.pieces[0] == one.pieces[-1] == ("…", False)
    both = excerpts(turn("blue", "sky"), ["blue", "sky"])
    assert [excerpt.speaker for excerpt in both] == ["you", "answer"]
    (sharp,) = excerpts(turn("die Straße"), ["strasse"])
    assert sharp.pieces == (("die ", False), ("Straße", True))


# At the prompt


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[object]:
    folder = write_chat_folder(tmp_path)

    def talk(*lines: str, options: tuple[str, ...] = ()) -> Run:
        typed = "".join(f"{line}\n" for line in lines)
        replies = opening("a</think>It is **blue**.", "a</think>Red.")
        return run("--model", folder, *options, typed=typed, open_model=replies)

    yield talk


def test_a_find_is_opened_at_its_turn(chat) -> None:
    chat("why the sky?", "and roses?", "/rename colours", "/new", "else")
    done = chat("/search SKY blue", "/found 1", "more", "/branches")
    assert "  colours  turn 1\n    you: why the sky?\n    answer: It is **blue**.\n" in done.stderr
    assert "[colours: 2 turns]" in done.stderr
    assert "> why the sky?" in done.stderr
    assert "It is **blue**." in done.stdout
    assert "[turn 1 of 2; the conversation goes on after its end, and /edit 1 " in done.stderr
    assert "* colours  3 turns  more" in done.stderr


def test_a_find_in_an_open_branch_goes_there(chat) -> None:
    done = chat(
        "sky", "/fork other", "roses", "/search roses", "/found 1", "/search sky", "/found 1"
    )
    assert done.stderr.count("[turn ") == 2
    assert "is open, here or in another program" not in done.stderr


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["/search"], "/search takes words, for example /search blue sky."),
        (["/search nothing here"], "[no turn that is kept has all of nothing here]"),
        (["/search zebra"], "[no turn that is kept has zebra]"),
        (["/found 1"], "there is nothing found to open; /search TEXT looks for it."),
        (["/search sky", "/found 2"], "there is no 2; the last search found 1."),
        (["/search sky", "/found x"], "/found takes a whole number from 1 on, got 'x'."),
        (["/search sky", "/new", "/search zebra", "/found 1"], "there is nothing found to open"),
    ],
)
def test_sentences(chat, lines: list[str], said: str) -> None:
    assert said in chat("sky", *lines).stderr


def test_nothing_kept_is_said(chat) -> None:
    done = chat("/search sky", options=("--no-save",))
    assert "nothing is kept in this run; start without --no-save." in done.stderr
