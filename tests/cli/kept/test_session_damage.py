"""Session files that were cut, changed or made up: nothing runs, what stood before is there.

`states` is what a file says after each of its lines. A file that this program wrote and something
damaged may say any of them and nothing else.
"""

import json
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.kept.session_lines import MOST_LINE_BYTES, write_line
from cli.kept.session_replay import SessionError
from cli.kept.sessions import Saved, SessionStore
from tests.cli.kept_turns import begun, store, texts, turn

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are written here, and none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A session's file with every type of line in it."""
    with begun(store(tmp_path), "one \x1b[2J é", name="mine") as log:
        log.settings({"think": "high", "temperature": 0.5, "system": None})
        log.add_turn(turn("two", "Yes. \U0001f600"))
        log.rewind(1)
        log.add_turn(turn("three"))
        log.add_turn(turn("four"), keep=1)
        log.begin_turn("five")
    return log.path


def opened(path: Path) -> Saved | None:
    """What the file says; None when it is refused as a whole."""
    sessions = SessionStore(path.parent, kv_budget_bytes=0)
    found = [one for one in sessions.summaries() if one.id == path.stem]
    if not found:
        assert b"\n" not in path.read_bytes()
        return None
    (summary,) = found
    shown = (summary.name, summary.title, summary.model, summary.parent, summary.problem)
    assert "".join(filter(None, shown)).isprintable()
    try:
        log, saved = sessions.open(summary)
    except SessionError as error:
        assert_one_sentence(str(error))
        return None
    log.close()
    for sentence in saved.notes:
        assert_one_sentence(sentence)
    return saved


def assert_one_sentence(text: str) -> None:
    assert text.endswith(".") and text.isprintable()


def state(saved: Saved) -> tuple:
    return saved.turns, saved.settings, saved.name, saved.unanswered


def states(path: Path) -> list[tuple]:
    """After each line of a whole file."""
    whole, found = path.read_bytes(), []
    lines = whole.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:count]))
        saved = opened(path)
        assert saved is not None and not saved.notes
        found.append(state(saved))
    return found


def go_on(path: Path) -> Saved:
    """Open, add a turn, open again."""
    sessions = SessionStore(path.parent, kv_budget_bytes=0)
    log, before = sessions.open(sessions.find(path.stem))
    with log:
        log.add_turn(turn("after"))
    after = opened(path)
    assert after is not None and not after.notes
    assert texts(after) == [*texts(before), "after"]
    return before


def test_a_file_cut_at_any_byte_loses_the_unfinished_line_alone(written: Path) -> None:
    whole = written.read_bytes()
    expected = states(written)
    finished = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    written.write_bytes(whole)
    for length in reversed(range(len(whole))):
        os.truncate(written, length)
        saved = opened(written)
        lines = sum(end <= length for end in finished)
        assert (None if saved is None else state(saved)) == (expected[lines - 1] if lines else None)
        assert saved is None or not saved.notes


def test_a_cut_line_gives_way_to_the_next_write(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(len(whole) - 1, whole.index(b"\n") + 1, -97):
        written.write_bytes(whole[:length])
        go_on(written)
    assert not [path for path in written.parent.iterdir() if "damaged" in path.name]


def test_a_damaged_line_is_named_and_the_file_is_kept_beside(written: Path) -> None:
    expected = states(written)
    lines = written.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"e", b"E", 1)
    damaged = b"".join(lines)
    written.write_bytes(damaged)
    saved = opened(written)
    assert saved is not None and state(saved) == expected[2]
    assert saved.notes == (
        f"{written}: line 4 is damaged; all before it is here, and the file as it is will be "
        f"kept beside as {written.name}.damaged.",
    )
    assert written.read_bytes() == damaged
    for suffix in ("damaged", "damaged-2"):
        written.write_bytes(damaged)
        go_on(written)
        beside = written.with_name(f"{written.name}.{suffix}")
        assert beside.read_bytes() == damaged
        assert beside.stat().st_mode & 0o777 == 0o600


def test_lines_of_a_newer_version_stay_and_are_told(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    added = write_line(len(lines) + 1, "mood", {"value": 7}, datetime.now(UTC))
    written.write_bytes(b"".join([*lines, added]))
    saved = opened(written)
    assert saved is not None and len(saved.turns) == 2
    assert saved.notes == (
        f"{written} has lines of a newer version (mood); they stay in the file and are not used.",
    )
    sessions = SessionStore(written.parent, kv_budget_bytes=0)
    with sessions.open(sessions.newest())[0] as log:
        log.add_turn(turn("after"))
    assert added in written.read_bytes()
    saved = opened(written)
    assert saved is not None and texts(saved)[-1] == "after"


def test_a_newer_version_of_the_file_is_refused(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    fields = {"format": "dsv4-chat session", "version": 2, "model": "", "created": ""}
    written.write_bytes(b"".join([write_line(1, "session", fields, datetime.now(UTC)), *lines[1:]]))
    with pytest.raises(SessionError, match="written by a newer version"):
        go_on(written)


def test_a_line_that_is_too_long_is_not_read(written: Path) -> None:
    size = written.stat().st_size
    with open(written, "r+b") as file:
        file.truncate(size + MOST_LINE_BYTES + 1)  # a hole: takes no disk
    saved = opened(written)
    assert saved is not None and len(saved.turns) == 2
    assert "has more than 67,108,864 bytes" in saved.notes[0]


@pytest.mark.parametrize("limit", ["MOST_LINE_BYTES", "MOST_BYTES"])
def test_a_message_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    log = begun(store(tmp_path), "one")
    before = log.path.read_bytes()
    monkeypatch.setattr(f"cli.kept.session_log.{limit}", len(before) + 100)
    with pytest.raises(SessionError, match="this is not kept"):
        log.begin_turn("x" * (len(before) + 100))
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_session(written: Path, make: Callable[[Path], None]) -> None:
    written.unlink()
    make(written)
    assert SessionStore(written.parent, kv_budget_bytes=0).summaries() == []


def test_a_link_leads_nowhere_else(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    written.rename(target)
    written.symlink_to(target)
    with pytest.raises(SessionError, match="found no regular file"):
        go_on(written)


def test_a_full_disk_keeps_what_was_there(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = SessionStore(written.parent, kv_budget_bytes=0)
    log, saved = sessions.open(sessions.newest())
    before, pwrite = written.read_bytes(), os.pwrite

    def half(descriptor: int, content: memoryview, place: int) -> int:
        if place > len(before):
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, content[: len(content) // 2], place)

    with log:
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(SessionError, match="cannot be written: No space left on device"):
            log.add_turn(turn("lost"))
        assert written.read_bytes() == before
        monkeypatch.undo()
        log.add_turn(turn("kept"))
    after = opened(written)
    assert after is not None and texts(after) == [*texts(saved), "kept"]


# 500 random damages: 300 of bytes, 200 of what correct lines say

Bytes = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 50))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def hole(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:start] + rng.choice((b"", b"\0" * (end - start))) + data[end:]


def lines_moved(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    index = rng.randrange(len(lines))
    line = lines[index]
    match rng.randrange(4):
        case 0:
            lines.insert(rng.randrange(len(lines) + 1), line)
        case 1:
            del lines[index]
        case 2:
            rng.shuffle(lines)
        case 3:
            lines += lines
    return b"".join(lines)


def inserted(rng: random.Random, data: bytes) -> bytes:
    junk = rng.choice(
        (b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\n\n{}\n", b"\r\n", b"\0" * 99, b"\x1b]0;x\x07",
         b'{"n": 1, "type": "session"}\n', b"[" * 100_000, rng.randbytes(300))
    )  # fmt: skip
    place = rng.randrange(len(data) + 1)
    return data[:place] + junk + data[place:]


DAMAGES: tuple[Bytes, ...] = (flipped, cut, hole, lines_moved, inserted)


def test_300_files_with_damaged_bytes(written: Path) -> None:
    whole = written.read_bytes()
    expected = states(written)
    rng = random.Random(5)
    refused = 0
    for number in range(300):
        damaged = DAMAGES[number % len(DAMAGES)](rng, whole)
        written.write_bytes(damaged)
        saved = opened(written)
        refused += saved is None
        if saved is not None:
            assert state(saved) in expected, f"damage {number}"
            go_on(written)
            if saved.notes:
                beside = written.with_name(f"{written.name}.damaged")
                assert beside.read_bytes() == damaged
                beside.unlink()
    assert refused < 150


NONSENSE = (
    "null", "true", "NaN", "-Infinity", "1e999", "-1", "9" * 5000, "9" * 4000, "0.1",
    '"\\ud800"', '"\\u001b[2J\\u009b\\u0000"', '"' + "\U0001f600" * 999 + '"', "[]", "{}", "[[]]",
    "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000,
    '{"__proto__": {"role": "system"}, "__class__": "os.system", "constructor": null}',
    '[{"role": "user", "content": [{"type": "image_url"}]}]',
    '[{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"function": 1}]}]',
    '[{"role": "user", "content": "x"}, {"role": "assistant", "content": {"a": NaN}}]',
    '[[1, 2, true]]', '[["a"]]', '[[1e5]]', "[[-1]]", '{"role": "user"}', '"__import__(\'os\')"',
)  # fmt: skip


def with_nonsense(rng: random.Random, line: bytes, number: int) -> bytes:
    """The line with one of its values replaced, or a key doubled, and with a right checksum."""
    fields = json.loads(line)
    del fields["crc"]
    spot: list | dict = fields
    while True:
        key = rng.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
        inner = spot[key]  # type: ignore[index]
        if not isinstance(inner, list | dict) or not inner or rng.random() < 0.3:
            break
        spot = inner
    spot[key] = "@here@"  # type: ignore[index]
    if rng.random() < 0.2 and isinstance(spot, dict):
        spot[rng.choice(("__proto__", "\x1b", ""))] = inner
    text = json.dumps(fields).replace('"@here@"', rng.choice(NONSENSE))
    if "n" in fields and fields["n"] == "@here@":
        text = json.dumps({**fields, "n": number})
    content = text[:-1].encode()
    return content + f', "crc": "{zlib.crc32(content):08x}"}}\n'.encode()


def test_200_files_whose_lines_are_whole_and_say_nonsense(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    rng = random.Random(6)
    told = 0
    for _ in range(200):
        changed = list(lines)
        for index in rng.sample(range(len(lines)), rng.choice((1, 1, 2, 5))):
            changed[index] = with_nonsense(rng, lines[index], index + 1)
        written.write_bytes(b"".join(changed))
        saved = opened(written)
        told += saved is None or bool(saved.notes)
        if saved is not None:
            json.dumps([one.to_json() for one in saved.turns], allow_nan=False).encode()
            json.dumps(saved.settings, allow_nan=False, ensure_ascii=False).encode()
            go_on(written)
    assert told > 100


# Killed while writing

WRITER = """
import sys
from pathlib import Path
from tests.cli.kept_turns import begun, store, turn

log = begun(store(Path(sys.argv[1])), "0")
print("writing", flush=True)
for number in range(1, 100_000):
    log.begin_turn(str(number))
    log.add_turn(turn(str(number), "long " * (number % 4000)))
"""


@pytest.mark.slow
def test_a_killed_writer_loses_at_most_what_it_was_writing(tmp_path: Path) -> None:
    rng = random.Random(7)
    counts = []
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        (path,) = (folder / "sessions").glob("*.jsonl")
        target = path.stat().st_size + rng.randrange(3_000_000)
        while path.stat().st_size < target:
            os.sched_yield()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        finished = path.read_bytes().count(b"\n")
        saved = opened(path)
        assert saved is not None and not saved.notes
        # The first line is the session, then a question and a turn for each number.
        assert texts(saved) == [str(number) for number in range((finished - 1) // 2)]
        assert saved.unanswered == (str(len(saved.turns)) if finished % 2 == 0 else None)
        go_on(path)
        counts.append(len(saved.turns))
    assert len(set(counts)) > 3
