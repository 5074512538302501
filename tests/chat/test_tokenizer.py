"""Control ids come from control segments alone; bytes come back as whole characters."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer

from dsv4_mlx.chat import Prompt, Segment, encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import (
    ASSISTANT,
    BOS,
    DSML,
    END_THINK,
    EOS,
    PAD,
    REQUIRED,
    THINK,
    USER,
    V4_TOKENS,
)
from dsv4_mlx.errors import CheckpointError, PromptError, UsageError
from dsv4_mlx.testing.tokenizers import SMALL_CORPUS, write_tokenizer

TOOL = {"type": "function", "function": {"name": "f", "description": "搜索"}}
CALL = {"id": "c", "function": {"name": "f", "arguments": '{"k": "Größe 🙂"}'}}
TALK = [
    {"role": "system", "content": "You help.", "tools": [TOOL]},
    {"role": "user", "content": "What is the capital of France?  你好\n\n"},
    {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": '{"t": 21}'},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def library(folder):
    """The same file read by the library alone, where spelled control tokens are control ids."""
    return LibraryTokenizer.from_file(str(folder / "tokenizer.json"))


def change(folder, target, **changes):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | changes
    (target / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def without(tmp_path, *tokens, corpus=SMALL_CORPUS):
    kept = [token for token in V4_TOKENS if token not in tokens]
    write_tokenizer(tmp_path, corpus, control_tokens=kept)
    return tmp_path


@pytest.mark.parametrize("mode", ["chat", "thinking"])
def test_prompt_without_spelled_tokens_has_the_ids_of_its_string(tokenizer, library, mode):
    prompt = encode_messages(TALK, thinking_mode=mode)
    wanted = library.encode(str(prompt), add_special_tokens=False).ids
    assert tokenizer.encode(prompt) == wanted
    assert tokenizer.decode(wanted) == str(prompt)


@pytest.mark.parametrize("token", V4_TOKENS)
def test_spelled_control_token_is_ordinary_text(tokenizer, token):
    controls = set(tokenizer.control_ids.values())
    assert controls.isdisjoint(tokenizer.encode(token))
    assert controls.isdisjoint(tokenizer.encode(f"a {token}\n{token}{token}b"))
    assert tokenizer.decode(tokenizer.encode(token)) == token
    assert tokenizer.encode(Prompt([Segment(token, True)])) == [tokenizer.control_ids[token]]


SPELLED = st.lists(st.one_of(st.sampled_from(V4_TOKENS), st.text(max_size=4))).map("".join)


@settings(max_examples=60, deadline=None)
@given(content=SPELLED, result=SPELLED)
def test_as_many_control_ids_as_control_segments(tokenizer, content, result):
    talk = [{"role": "user", "content": content}, {"role": "tool", "content": result}]
    prompt = encode_messages(talk)
    ids = tokenizer.encode(prompt)
    controls = set(tokenizer.control_ids.values())
    assert [index for index in ids if index in controls] == [
        tokenizer.control_ids[segment.text] for segment in prompt.segments if segment.is_control
    ]
    assert tokenizer.decode(ids) == str(prompt)


@pytest.fixture
def nobody_is_interrupted():
    """A thread of Python's goes on until it waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def test_others_work_while_a_text_is_encoded(tokenizer, nobody_is_interrupted):
    text, works, ended = "Rain on the hills. " * 2_000, [], Event()

    def work():
        while not ended.is_set():
            os.stat(".")  # here another thread may go on
            works.append(None)

    def went_on():
        before = len(works)
        ids = tokenizer.encode(text)
        return len(works) > before and tokenizer.decode(ids) == text

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)
        try:
            assert any(went_on() for _ in range(100))
        finally:
            ended.set()


def test_texts_of_many_threads_have_the_ids_of_one(tokenizer):
    texts = [f"{number} Größe 你好 " * number for number in range(1, 60)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(one) for one in texts]


def test_control_token_that_is_absent_is_written_as_text(tmp_path):
    tokenizer = Tokenizer(without(tmp_path, DSML, corpus=[f"<{DSML}tool_calls>"] * 9))
    prompt = encode_messages(TALK)
    assert DSML not in tokenizer.control_ids
    assert tokenizer.decode(tokenizer.encode(prompt)) == str(prompt)
    opening = Prompt([Segment("<", False), Segment(DSML, True), Segment("tool_calls>", False)])
    assert tokenizer.encode(opening) == tokenizer.encode(f"<{DSML}tool_calls>")


def test_required_tokens_are_enough(tmp_path):
    optional = [token for token in V4_TOKENS if token not in REQUIRED]
    tokenizer = Tokenizer(without(tmp_path, *optional))
    prompt = encode_messages([{"role": "user", "content": "hi", "task": "title"}])
    assert tokenizer.decode(tokenizer.encode(prompt)) == str(prompt)


@pytest.mark.parametrize("token", REQUIRED)
def test_missing_required_token_is_named(tmp_path, token):
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(without(tmp_path, token))
    assert token in str(caught.value)


def test_ids_by_name(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.control_ids[PAD] == 2
    assert tokenizer.vocab_size == 512


IDS = st.lists(st.integers(0, 511), max_size=30)


@settings(max_examples=200, deadline=None)
@given(ids=IDS)
def test_decoding_equals_the_library(tokenizer, library, ids):
    assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)
    assert tokenizer.decode(ids, skip_special=True) == library.decode(ids)


@settings(max_examples=200, deadline=None)
@given(ids=IDS)
def test_stream_equals_decoding_at_once(tokenizer, ids):
    stream = tokenizer.detokenizer()
    assert "".join(map(stream.add, ids)) + stream.finish() == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_stream_never_emits_half_a_character(tokenizer, text):
    stream = tokenizer.detokenizer()
    pieces = [stream.add(index) for index in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.finish() == ""


def test_stream_holds_a_character_until_its_last_byte(tokenizer):
    stream = tokenizer.detokenizer()
    pieces = [stream.add(index) for index in tokenizer.encode("🙂")]
    assert pieces == [""] * (len(pieces) - 1) + ["🙂"]
    stream.add(tokenizer.encode("🙂")[0])
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_id_without_text_is_visible(tokenizer):
    assert tokenizer.decode([512, -1]) == "\ufffd\ufffd"


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(PromptError, match="surrogate"):
        tokenizer.encode("a\ud800b")


def test_truncation_and_padding_settings_are_not_obeyed(folder, tmp_path):
    truncation = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    change(folder, tmp_path, truncation=truncation)
    assert len(Tokenizer(tmp_path).encode("one two three four")) > 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no tokenizer.json"),
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "byte"),
    ],
)
def test_folder_without_a_tokenizer_is_refused(tmp_path, content, named):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=named):
        Tokenizer(tmp_path)


def test_added_token_that_text_produces_is_no_control_token(folder, tokenizer, tmp_path):
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    (index,) = tokenizer.encode("a")
    change(folder, tmp_path, added_tokens=[*added, {**added[-1], "id": index, "content": "a"}])
    changed = Tokenizer(tmp_path)
    assert changed.control_ids == tokenizer.control_ids
    assert changed.decode(changed.encode("a")) == "a"


@pytest.mark.parametrize("added", [{}, ["<think>"], [{"content": "<think>"}], [{"id": 1}]])
def test_damaged_added_tokens_are_refused(folder, tmp_path, added):
    change(folder, tmp_path, added_tokens=added)
    with pytest.raises(CheckpointError, match="added token"):
        Tokenizer(tmp_path)


def test_damaged_model_is_refused(folder, tmp_path):
    change(folder, tmp_path, model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]})
    with pytest.raises(CheckpointError, match="damaged"):
        Tokenizer(tmp_path)


def test_small_tokenizers_are_the_same_every_time(folder, tmp_path):
    write_tokenizer(tmp_path, iter(SMALL_CORPUS))
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("size", [276, 300, 512, 700])
def test_small_tokenizers_have_exactly_the_size_asked_for(tmp_path, size):
    write_tokenizer(tmp_path, ["word " * 3], size)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.vocab_size == size
    assert all(tokenizer.token_bytes(index) for index in range(size))
    assert tokenizer.decode(tokenizer.encode("any 文字")) == "any 文字"


def test_small_tokenizers_put_the_control_tokens_first(tokenizer):
    assert [tokenizer.control_ids[token] for token in V4_TOKENS] == list(range(len(V4_TOKENS)))
    assert tokenizer.decode([0, 6, 7, 9, 10]) == BOS + USER + ASSISTANT + THINK + END_THINK


def test_generation_config_names_the_end_token(folder):
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == 1
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["eos_token"], settings["add_bos_token"]) == (EOS, False)


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(UsageError, match="276"):
        write_tokenizer(tmp_path, vocab_size=275)
