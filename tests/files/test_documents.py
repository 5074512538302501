"""Reading JSON and TOML: what is taken, and one sentence for everything else."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import (
    MOST_DEPTH,
    DocumentError,
    parse_json,
    parse_object,
    parse_toml,
    read_object,
    read_toml,
    shown,
)
from dsv4_mlx.files.fields import Fields, without_nulls

TAKEN = {
    "plain": (b'{"a": [1, 2.5, null, true, "b"]}', {"a": [1, 2.5, None, True, "b"]}),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "byte order mark in a text": ('\ufeff{"a": 1}', {"a": 1}),
    "UTF-16 of Windows": ('{"a": "ä"}'.encode("utf-16"), {"a": "ä"}),
    "CRLF": (b'{"a":\r\n1}\r\n', {"a": 1}),
    "a whole pair of surrogates": (rb'"\ud83d\ude00"', "😀"),
    "an underflow": (b"1e-9999", 0.0),
    "the largest double": (b"1.7976931348623157e308", 1.7976931348623157e308),
    "a long text of digits": (b'"' + b"1" * 400 + b'"', "1" * 400),
    "a whole number of 308 digits": (b"9" * 308, int("9" * 308)),
    "just deep enough": (b"[" * 100 + b"]" * 100, json.loads("[" * 100 + "]" * 100)),
}

REFUSED = {
    "nothing": (b"", "is empty"),
    "blanks": (b" \r\n", "is empty"),
    "a cut": (b'{"a": 1', "is not valid JSON"),
    "a bracket alone": (b"[", "is not valid JSON"),
    "zeros": (b"\0" * 64, "is not valid JSON"),
    "Latin-1": (b'{"a": "\xe4"}', "is no UTF-8 text"),
    "UTF-16 cut in a character": ("{}".encode("utf-16")[:-1], "is no UTF-8 text"),
    "half a pair": (rb'["\uD83D"]', "half a surrogate pair"),
    "half a pair as a key": (rb'{"\udc00": 1}', "half a surrogate pair"),
    "half a pair as such": ('["\ud800"]', "is no UTF-8 text"),
    "too deep by one": (b"[" * 101 + b"]" * 101, "nests deeper than 100 levels"),
    "objects too deep": (b'{"a":' * 101 + b"1" + b"}" * 101, "nests deeper than 100 levels"),
    "deeper than the stack": (b"[" * 100_000, "nests deeper than 100 levels"),
    "a key that stands twice": (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice"),
    "NaN": (b"[NaN]", "holds NaN"),
    "Infinity": (b"-Infinity", "holds -Infinity"),
    "an exponent": (b'{"a": 1e999}', "the number 1e999, which is beyond every double"),
    "a negative exponent": (b"-2E+400", "beyond every double"),
    "310 digits": (b"1" + b"0" * 309, "of 310 digits, which is beyond every double"),
    "more digits than Python takes": (b"[" + b"7" * 5000 + b"]", "of 5,000 digits"),
    "a fraction of 400 digits": (b"1" * 400 + b".5", "beyond every double"),
    "a page of a hub": (b"<!DOCTYPE html><html></html>", "is a web page"),
}

REFUSED_TOML = {
    "a cut": (b"a =", "is not valid TOML"),
    "a key that stands twice": (b"a = 1\na = 2", "is not valid TOML"),
    "an exponent": (b"a = 1e999", "beyond every double"),
    "400 digits": (b"a = " + b"9" * 400, "beyond every double"),
    "more digits than Python takes": (b"a = " + b"9" * 5000, "is not valid TOML"),
    "a long hexadecimal number": (b"a = 0x" + b"f" * 4000, "beyond every double"),
    "lists in lists": (b"a = " + b"[" * 20_000, "nests deeper than 100 levels"),
    "a deep key": (b"a" + b".a" * 200 + b" = 1", "nests deeper than 100 levels"),
    "Latin-1": (b'a = "\xe4"', "is no UTF-8 text"),
    "half a pair": (rb'a = "\ud800"', "is not valid TOML"),
    "a control character": (b'a = "\0"', "is not valid TOML"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_documents_of_every_origin_are_read(name: str) -> None:
    content, value = TAKEN[name]
    assert parse_json(content) == value


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said(name: str) -> None:
    content, words = REFUSED[name]
    with pytest.raises(DocumentError) as error:
        parse_json(content)
    assert words in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("name", REFUSED_TOML)
def test_what_is_wrong_with_toml_is_said(name: str) -> None:
    content, words = REFUSED_TOML[name]
    with pytest.raises(DocumentError) as error:
        parse_toml(content)
    assert words in str(error.value)


def test_toml_of_every_origin_is_read() -> None:
    table = {"a": 1, "b": {"c": [1.5, "d", True]}}
    text = 'a = 1\n[b]\nc = [1.5, "d", true]\n'
    contents: list[bytes | str] = [
        text, text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"),
        text.replace("\n", "\r\n").encode(),
    ]  # fmt: skip
    assert [parse_toml(content) for content in contents] == [table] * 5


@pytest.mark.parametrize("content", ["[]", '"a"', "1", "null", "true"])
def test_an_object_is_an_object(content: str) -> None:
    with pytest.raises(DocumentError, match="expected an object"):
        parse_object(content)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(values, st.booleans(), st.booleans())
def test_what_was_written_is_read_back(value: Any, ascii_only: bool, marked: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1).replace("\n", "\r\n")
    assert parse_json(("\ufeff" if marked else "") + text) == value


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_gives_a_value_or_a_sentence(data: st.DataObject) -> None:
    whole = json.dumps({"a": [1, 2.5e3, None], "b": {"c": "ä\\u00e4", "d": [[[]]]}}).encode()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        removed = data.draw(st.integers(0, 3))
        inserted = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"[", b"{", b'"', b"e999", b"9" * 310, b"\\u"])
        )
        content[place : place + removed] = inserted
    for parse in (parse_json, parse_toml):
        try:
            value = parse(bytes(content))
        except DocumentError as error:
            assert "\n" not in str(error)
        else:
            # Whatever is taken can be printed and handed on.
            json.dumps(value, allow_nan=False, ensure_ascii=False, default=str).encode()


def test_a_file_is_read_or_named_with_a_cure(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, sentence in {
        b'{"a": 1': f"{path} is not valid JSON (Expecting ',' delimiter: line 1 column 8 (char 7));"
        " get it anew.",
        b"[]": f"{path} holds a list, expected an object; get it anew.",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": f"{path} is a Git LFS "
        "pointer instead of the file itself; fetch it with `git lfs pull`.",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            read_object(path, cure="get it anew", error=UsageError)
        assert str(error.value) == sentence
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(path) == {"a": 1}


def test_what_is_no_readable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.json cannot be read"):
        read_object(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="is no file; download it again"):
        read_object(tmp_path)
    with pytest.raises(CheckpointError, match=r"/dev/zero is no file"):
        read_object(Path("/dev/zero"))
    large = tmp_path / "large.toml"
    large.write_text("a = 1\n" * 10)
    with pytest.raises(CheckpointError, match="more than the 32 bytes that are read; correct it"):
        read_toml(large, most_bytes=32)


def fields(**keys: Any) -> Fields:
    return Fields(keys, "generation_config.json")


def test_null_is_absent() -> None:
    found = fields(a=None)
    assert found.number("a", 0.5) == 0.5 and found.whole("a", 3) == 3
    assert found.ids("a") == () and found.flag("a", True)
    assert without_nulls({"a": None, "b": 0}) == {"b": 0}


def test_values_are_read_as_they_were_meant() -> None:
    assert fields(a=1).number("a", 0) == 1.0 and fields(a=40.0).whole("a", 0) == 40
    assert fields(a=1).ids("a") == (1,) and fields(a=[1, 7, 1]).ids("a") == (1, 7)
    assert fields(a=False).flag("a", True) is False


@pytest.mark.parametrize(
    "value", [True, "1", [], {}, 10**400, -(10**400), math.inf, math.nan, -1, 3]
)
def test_a_number_out_of_place_is_named(value: object) -> None:
    with pytest.raises(CheckpointError) as error:
        fields(top_p=value).number("top_p", 1.0, least=0, most=1)
    assert str(error.value).startswith("generation_config.json: top_p is ")
    assert str(error.value).endswith("expected a number from 0 to 1; correct it.")
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("value", [True, "1", 1.5, 10**400, -1, math.inf, {}, [0]])
def test_a_whole_number_out_of_place_is_named(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"top_k is .*, expected a whole number from 0 to"):
        fields(top_k=value).whole("top_k", 0)


@pytest.mark.parametrize("value", [True, -1, [-1], [1, None], "1", [[1]], {"a": 1}, 2**31, 0.5])
def test_an_id_out_of_place_is_named(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"eos_token_id is .*, expected a token id"):
        fields(eos_token_id=value).ids("eos_token_id")


def test_a_long_value_is_cut_short() -> None:
    for value in ("a" * 10**6, [1] * 10**6, {str(n): n for n in range(1000)}, 10**300):
        assert len(shown(value)) <= 60
    deep: Any = []
    for _ in range(MOST_DEPTH - 1):
        deep = [deep]
    assert len(shown(deep)) <= 60


# Programs of ours that talk to each other, in lines that only they write: file names of any bytes
# are in them as halves of surrogate pairs.
OUR_PIPES = {"cli/ranks/rank_work.py", "cli/tools/search.py", "cli/tools/search_worker.py"}
READERS = {"json.load", "json.loads", "json.JSONDecoder", "tomllib.load", "tomllib.loads"}
ROOT = Path(__file__).parents[2]


def foreign_readers(file: Path) -> list[str]:
    """What `file` reads JSON or TOML with, other than `documents`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    found += [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return [name for name in found if name in READERS]


def test_everything_is_read_here() -> None:
    files = [
        file
        for package in ("dsv4_mlx", "convert", "cli", "metal_kernels")
        for file in (ROOT / package).rglob("*.py")
    ]
    found = {str(file.relative_to(ROOT)) for file in files if foreign_readers(file)}
    assert found == OUR_PIPES | {"dsv4_mlx/files/documents.py"}
