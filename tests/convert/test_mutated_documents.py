"""Every file of a model's folder, changed in every way: it is read, or one sentence says why not.

What the terminal's program does with a folder before it loads weights, and what `inspect` and
`verify` do, run in this process, so that an exception of any kind fails the test.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from convert.app import main
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint, open_folder
from dsv4_mlx.weights.planning import plan_parameters
from tests.examples import examples

SMALL = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(0, 128, 0),
    num_hash_layers=1,
    n_routed_experts=4,
)
HEADER = "model-00001-of-00003.safetensors"
FILES = ("config.json", "generation_config.json", "tokenizer.json", CONVERSION_FILE, HEADER)
DEEP = "[" * 300 + "]" * 300

# Another spelling of the same document.
SAME = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "both": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "blanks around": lambda text: b"\r\n \t" + text.encode() + b"\r\n\r\n",
}
# Something else in its place.
WHOLE = {
    "nothing": b"",
    "zeros": b"\0" * 40,
    "a list": b"[]",
    "null": b"null",
    "a number of 5,000 digits": b"1" * 5000,
    "depth": b"[" * 100_000,
    "depth in an object": b'{"a":' * 100_000,
    "a page": b"<html></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "Latin-1": b'{"a": "\xe4"}',
    "half a pair": rb'{"\ud800": "\udc00"}',
    "a key twice": b'{"a": 1, "a": 2}',
}
# What one of its values becomes, as JSON text.
VALUES = (
    "null", "true", "-1", "0", "1e999", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "9" * 5000,
    "1e300", "123456789012345678901234567890", "0.5", '""', '"text"', r'"\ud800"', "[]", "{}",
    "[null]", '{"a": null}', DEEP, '{"a":' * 200 + "1" + "}" * 200, "[[1, 2], [3]]",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder."""
    root = tmp_path_factory.mktemp("mutated")
    write_tiny_checkpoint(root / "source", SMALL)
    assert main([str(root / "source"), str(root / "model")]) == 0
    assert (root / "model" / HEADER).is_file()
    return root / "model"


@contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """The file as `content` for a while; in a safetensors file, its header."""
    before = path.read_bytes()
    try:
        if path.name == HEADER:
            (length,) = struct.unpack("<Q", before[:8])
            content = struct.pack("<Q", len(content)) + content + before[8 + length :]
        path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def text_of(path: Path) -> str:
    content = path.read_bytes()
    if path.name == HEADER:
        (length,) = struct.unpack("<Q", content[:8])
        content = content[8 : 8 + length]
    return content.decode()


def refusals(folder: Path) -> list[str]:
    """The sentences of what the terminal's program reads before the weights, if any."""
    sentences = []
    for read in (
        lambda path: ChatSettings.of(open_folder(path)),
        Tokenizer,
        lambda path: plan_parameters(open_checkpoint(path)),
    ):
        try:
            read(folder)
        except Dsv4Error as error:
            sentences.append(str(error))
    return sentences


def outcome(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The same, and those of the converter's commands."""
    sentences = refusals(folder)
    for command in (["inspect", str(folder)], ["verify", str(folder), "--level", "structure"]):
        status = main(command)
        said = capsys.readouterr()
        assert status in (0, 1, 2)
        if status:
            sentences.append(said.err)
    return sentences


def require_sentences(sentences: list[str]) -> None:
    for sentence in sentences:
        assert "Traceback" not in sentence
        assert sentence.strip().count("\n") == 0 and len(sentence) < 600, sentence
        sentence.encode()  # it can be printed


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("spelling", SAME)
def test_another_spelling_is_the_same_document(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, spelling: str
) -> None:
    if file == HEADER and spelling == "UTF-16":
        pytest.skip("a header is UTF-8 by its definition")
    path = folder / file
    with written(path, SAME[spelling](text_of(path))):
        sentences = outcome(folder, capsys)
    # A conversion knows its files by their size.
    assert [one for one in sentences if "bytes, expected" not in one] == []


@pytest.mark.parametrize("file", [*FILES, INDEX_FILE])
@pytest.mark.parametrize("content", WHOLE)
def test_another_document_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, content: str
) -> None:
    path = folder / file
    with written(path, WHOLE[content]):
        sentences = outcome(folder, capsys)
    require_sentences(sentences)
    assert sentences
    if content == "a pointer" and file != HEADER:
        assert any("is a Git LFS pointer" in one for one in sentences)


def changed(value: Any, place: int, text: str) -> tuple[Any, bool]:
    """`value` with the marker in the place of its `place`-th part, counted from the front."""
    left = [place]

    def walk(one: Any) -> Any:
        if left[0] == 0:
            left[0] = -1
            return "@@"
        left[0] -= left[0] > 0
        if isinstance(one, dict):
            return {key: walk(inner) for key, inner in list(one.items())}
        return [walk(inner) for inner in one] if isinstance(one, list) else one

    found = walk(value)
    return found, left[0] == -1


@examples(
    25,
    slow=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # read empty after each command
)
@given(st.sampled_from(FILES), st.integers(1, 60), st.sampled_from(VALUES))
@example("generation_config.json", 1, "1" + "0" * 400)
@example("config.json", 20, "1" + "0" * 400)
@example(CONVERSION_FILE, 3, DEEP)
def test_no_value_in_any_place_is_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, place: int, value: str
) -> None:
    path = folder / file
    content, there = changed(json.loads(text_of(path)), place, value)
    text = json.dumps(content, ensure_ascii=False)
    if not there:
        return
    with written(path, text.replace('"@@"', value).encode()):
        require_sentences(outcome(folder, capsys))


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_null_is_as_good_as_absent(folder: Path, file: str) -> None:
    keys = json.loads(text_of(folder / file))
    for key in keys:
        found = []
        for mutated in ({**keys, key: None}, {k: v for k, v in keys.items() if k != key}):
            with written(folder / file, json.dumps(mutated).encode()):
                found.append(refusals(folder))
        require_sentences(found[0])
        assert found[0] == found[1], key


def test_a_header_says_texts_about_its_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = json.loads(text_of(folder / HEADER))
    for metadata in ({"a": 1}, {"a": {"b": []}}, [], "text", {"a": None}, {"a": [["b"]]}):
        content = json.dumps({**header, "__metadata__": metadata}).encode()
        with written(folder / HEADER, content):
            sentences = outcome(folder, capsys)
        require_sentences(sentences)
        assert any("__metadata__ is" in one for one in sentences)
