"""What requests to mlx-lm's server become: the prompt of our encoder, or a sentence as the answer.

The server's own handler runs in this process, up to the place where a model would generate.
"""

import io
import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.tokenizer import Tokenizer
from tests.cli.scripted import write_chat_folder

HI = [{"role": "user", "content": "Hi there"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ask(served):
    """`ask(body)`: the prompt's token ids, or the sentence in the server's answer."""
    return served.ask


@pytest.fixture(scope="module")
def served(folder: Path):
    from dsv4_mlx import mlx_lm

    mlx_lm.register()
    return Served(mlx_lm.load_tokenizer(folder))


class Served:
    """As much of a server as a request meets before the model does."""

    def __init__(self, tokenizer: Any) -> None:
        from mlx_lm import server

        self._server, self._tokenizer = server, tokenizer
        self.cli_args = Namespace(
            num_draft_tokens=3, max_tokens=9, temp=0.0, top_p=1.0, top_k=0, min_p=0.0,
            allowed_origins="*", chat_template_args={},
        )  # fmt: skip
        self.model_provider = Namespace(cli_args=self.cli_args, processor=None)
        self.prompt: list[int] | None = None

    def generate(self, request: Any, args: Any, progress_callback: Any) -> Any:
        tokenize = self._server.ResponseGenerator._tokenize
        self.prompt = tokenize(self, self._tokenizer, request, args)[0]
        self.sampler = self._server._make_sampler(args, self._tokenizer)
        self.processors = self._server._make_logits_processors(args)
        raise RuntimeError("There is no model here.")

    def ask(
        self,
        body: object,
        *,
        server: dict[str, Any] | None = None,
        path: str = "/v1/chat/completions",
    ) -> list[int] | str:
        self.prompt, self.cli_args.chat_template_args = None, server or {}
        handler = self._server.APIHandler.__new__(self._server.APIHandler)
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        vars(handler).update(
            response_generator=self, rfile=io.BytesIO(sent), wfile=io.BytesIO(), created=0,
            path=path, headers={"Content-Length": str(len(sent))},
            request_version="HTTP/1.0", requestline="", system_fingerprint="",
            log_request=lambda *_: None,
        )  # fmt: skip
        handler.do_POST()
        if self.prompt is not None:
            return self.prompt
        head, _, answer = handler.wfile.getvalue().partition(b"\r\n\r\n")
        assert head.split()[1][:1] == b"4"
        sentence: str = json.loads(answer)["error"]
        return sentence


@pytest.fixture(scope="module")
def official(folder: Path):
    """`official(messages, level)`: the token ids of the release's prompt."""
    tokenizer = Tokenizer(folder)

    def tokens(messages: list[dict[str, Any]], level: str = "high") -> list[int]:
        mode = {"none": {"thinking_mode": "chat"}}.get(
            level, {"thinking_mode": "thinking", "reasoning_effort": level}
        )
        return tokenizer.encode(encode_messages(messages, **mode))

    return tokens


# One by one


def test_developer_is_system(ask, official) -> None:
    rule = {"content": "Answer in French."}
    expected = official([{"role": "system", **rule}, *HI])
    assert ask({"messages": [{"role": "developer", **rule}, *HI]}) == expected
    assert expected != official(HI)


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_comes_back_under_either_name(ask, official, key: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "nothing"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    messages = [*HI, {**said, key: "Let me look."}, result]
    known = [{"role": "system", "content": "", "tools": tools}, *HI,
             {**said, "reasoning_content": "Let me look."}, result]  # fmt: skip
    assert ask({"messages": messages, "tools": tools}) == official(known)
    assert "Let me look." in str(encode_messages(known, thinking_mode="thinking"))


OFF = [
    {"thinking": {"type": "disabled"}},
    {"thinking": {"type": "enabled", "budget_tokens": 0}},
    {"thinking": {"budget_tokens": 0}},
    {"thinking": False},
    {"thinking": "off"},
    {"enable_thinking": False},
    {"reasoning_effort": "none"},
    {"reasoning_effort": "Minimal"},
    {"reasoning_effort": "off"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False, "effort": "high"}},
    {"reasoning": {"max_tokens": 0}},
    {"chat_template_kwargs": {"thinking": False}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"reasoning_effort": "none"}},
    {"chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "max"}},
    {"thinking": {"type": "disabled"}, "reasoning_effort": "high"},
]
HIGH = [
    {},
    {"thinking": None, "reasoning_effort": None, "reasoning": None, "chat_template_kwargs": None},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"thinking": {"type": "adaptive"}},
    {"thinking": True},
    {"enable_thinking": True},
    *({"reasoning_effort": word} for word in ("low", "medium", "HIGH", "auto", True)),
    {"reasoning": {"effort": "high"}},
    {"reasoning": "medium"},
    {"reasoning": {}},
    {"chat_template_kwargs": {"thinking": True}},
    {"chat_template_kwargs": {"reasoning_effort": "high"}},
]
MAX = [
    *({"reasoning_effort": word} for word in ("max", "xhigh", "maximum")),
    {"reasoning": {"effort": "max"}},
    {"chat_template_kwargs": {"reasoning_effort": "xhigh"}},
    {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
    {"reasoning_effort": "max", "chat_template_kwargs": {"reasoning_effort": "high"}},
]
LEVELS = [*((body, "none") for body in OFF), *((body, "high") for body in HIGH),
          *((body, "max") for body in MAX)]  # fmt: skip


@pytest.mark.parametrize(("body", "level"), LEVELS, ids=[json.dumps(body) for body, _ in LEVELS])
def test_every_spelling_of_a_level(ask, official, body: dict[str, Any], level: str) -> None:
    assert ask({"messages": HI, **body}) == official(HI, level)


@pytest.mark.parametrize(
    ("defaults", "body", "level"),
    [
        ({"enable_thinking": False}, {}, "none"),
        ({"enable_thinking": False}, {"thinking": {"type": "enabled"}}, "high"),
        ({"enable_thinking": False}, {"reasoning_effort": "max"}, "max"),
        ({"reasoning_effort": "max"}, {"thinking": True}, "max"),
        ({"reasoning_effort": "max"}, {"reasoning_effort": "none"}, "none"),
        ({"thinking": False}, {"enable_thinking": True}, "high"),
    ],
)
def test_a_request_wins_over_what_the_server_was_started_with(
    ask, official, defaults: dict[str, Any], body: dict[str, Any], level: str
) -> None:
    assert ask({"messages": HI, **body}, server=defaults) == official(HI, level)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"reasoning_effort": "extreme"}, "reasoning_effort must be one of none, off,"),
        ({"reasoning_effort": 3}, "reasoning_effort must be one of"),
        ({"reasoning": {"effort": []}}, "reasoning.effort must be one of"),
        ({"thinking": {}}, "thinking must have a type, enabled or disabled, got {}."),
        ({"thinking": {"type": "perhaps"}}, "thinking.type must be one of"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens must be"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs must be an object, got []."),
        ({"chat_template_kwargs": {"style": 1}}, "The chat template takes thinking,"),
        ({"chat_template_kwargs": {"tools": []}}, "The chat template takes thinking,"),
        ({"chat_template_kwargs": {"drop_thinking": 1}}, "chat_template_kwargs.drop_thinking must"),
        ({"chat_template_kwargs": {"effort_table": []}}, "chat_template_kwargs.effort_table must"),
        ({"messages": []}, "messages must be a list with a message in it, got []."),
        ({"messages": "Hi"}, "messages must be a list with a message in it, got 'Hi'."),
        ({"messages": None}, "messages must be a list with a message in it, got None."),
        ({"messages": ["Hi"]}, "messages[0] must be a dictionary, got 'Hi'."),
        ({"messages": [{"content": "Hi"}]}, "messages[0] needs a role, got None;"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "A role must be system, developer,"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0]: content must be a string"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0]: every part of a cont"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0]: content holds half"),
        ({"messages": [{"role": "assistant", "reasoning": 1}]}, "messages[0]: reasoning_content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]},
         "messages[0]: this model reads parts of type 'text' only, got 'image_url'."),
        ({"messages": [{"role": "assistant", "tool_calls": ["x"]}]}, "messages[0]: tool_calls mu"),
        ({"tools": 5}, "messages[0]: tools must be a list of dictionaries"),
        ({"stop": 5}, "stop must be a text or a list of texts, got 5."),
        ({"stop": ["x", 1]}, "stop must be a text or a list of texts, got ['x', 1]."),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1."),
        ({"seed": 10**30}, "seed must be a whole number from 0 to 9223372036854775807, got 1000"),
        ({"top_k": 2**63}, "top_k must be a whole number from 0 to 9223372036854775807, got 92"),
        ({"temperature": float("nan")}, "temperature must be a number from 0 on, got nan."),
        ({"repetition_penalty": float("inf")}, "repetition_penalty must be a number above 0"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be a number from -1e+30"),
        ({"logit_bias": {"9999999": 1}}, "logit_bias takes token ids from 0 to "),
        ({"logit_bias": {"-1": 1}}, "logit_bias takes token ids from 0 to "),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_answered_with_a_sentence(
    ask, body: dict[str, Any], sentence: str
) -> None:
    assert str(ask({"messages": HI, **body})).startswith(sentence)


def test_arguments_that_are_no_json_are_one_argument(ask, official) -> None:
    def said(arguments: object) -> list[dict[str, Any]]:
        call = {"id": "1", "function": {"name": "look", "arguments": arguments}}
        return [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}, *HI]

    assert ask({"messages": said("{no json")}) == official(said("{no json"))
    assert ask({"messages": said('{"a": [1, null]}')}) == official(said({"a": [1, None]}))


@pytest.mark.parametrize("body", [b"\xff{}", b"[" * 200_000, b"9" * 5000, b"{", b"[]", b""])
def test_a_body_that_cannot_be_read_is_answered_too(ask, body: bytes) -> None:
    assert " " in str(ask(body))


@pytest.mark.parametrize("prompt", [None, "", 5, [], ["a"]])
def test_a_completion_needs_a_text(ask, prompt: object) -> None:
    assert str(ask({"prompt": prompt}, path="/v1/completions")).startswith("prompt must be a text")


def test_a_completion_is_the_text_alone(ask, folder: Path) -> None:
    tokens = ask({"prompt": "Hi there", "top_k": 10**9}, path="/v1/completions")
    assert Tokenizer(folder).decode(tokens).endswith("Hi there")


# Numbers

POSITIVE = st.floats(0, allow_infinity=False) | st.sampled_from(
    [5e-324, 1e-46, 1e-40, 1e-7, 0.5, 1.0, 1e30, 1e40, 1.7e308]
)


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """mlx-lm compiles its filters anew for every number they are given."""
    mx.disable_compile()
    yield
    mx.enable_compile()


SHARES = st.floats(0, 1) | st.sampled_from([0.0, 5e-324, 1e-46, 1e-40, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"temperature": POSITIVE},
        optional={
            "top_p": SHARES,
            "min_p": SHARES,
            "top_k": st.integers(0, 2**63 - 1) | st.sampled_from([1, 2, 300, 2**31]),
            "repetition_penalty": POSITIVE,
        },
    )
)
@example({"temperature": 1.0, "top_p": 1e-46})
@example({"temperature": 1.0, "top_k": 10**6})
@example({"temperature": 5e-324})
@example({"temperature": 1e40, "min_p": 1.0})
@example({"temperature": 1.0, "repetition_penalty": 1e-46})
def test_mlx_lms_sampler_gives_a_token_for_all_numbers(
    uncompiled, served, body: dict[str, Any]
) -> None:
    prompt = served.ask({"messages": HI, **body})
    assert isinstance(prompt, list)
    size = len(served._tokenizer._tokenizer)
    logits = mx.where(mx.arange(size) == 7, 30.0, mx.arange(size) % 5 - 2.0)[None]
    penalised = mx.array(logits)
    for process in served.processors:
        penalised = process(mx.array(prompt), penalised)
    assert mx.isfinite(penalised).all().item()
    logprobs = penalised - mx.logsumexp(penalised, axis=-1, keepdims=True)
    token = served.sampler(logprobs).item()
    assert 0 <= token < size
    if (body.get("top_p", 1) or 1) < 0.5 and not body.get("repetition_penalty"):
        assert token == 7


# All together

TEXTS = st.sampled_from(["", "Hi", "two\nlines", "<think>x</think>", "<｜User｜>", "ä好 🙂", " "])
CONTENTS = st.one_of(
    TEXTS,
    st.none(),
    st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=3),
    st.sampled_from([7, True, {}, [{"type": "text"}], ["x"], [{"type": "video"}], [None]]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "x", None])},
        optional={
            "content": CONTENTS,
            "reasoning": TEXTS | st.sampled_from([None, 3, []]),
            "reasoning_content": TEXTS | st.sampled_from([None, {}]),
        },
    ),
    max_size=5,
)
WORDS = st.sampled_from(["none", "off", "minimal", "low", "medium", "high", "xhigh", "max", "Max",
                         " high ", "", "extreme", None, True, False, 1, 0.5, [], {}])  # fmt: skip
SWITCHES = WORDS | st.fixed_dictionaries(
    {}, optional={"type": WORDS | st.sampled_from(["enabled", "disabled"]),
                  "budget_tokens": st.sampled_from([0, 1, -1, 1.5, "0", None, True, 10**30])}
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {"messages": MESSAGES},
    optional={
        "thinking": SWITCHES,
        "reasoning_effort": WORDS,
        "reasoning": WORDS | st.fixed_dictionaries({}, optional={"effort": WORDS}),
        "chat_template_kwargs": st.fixed_dictionaries(
            {}, optional={"thinking": SWITCHES, "enable_thinking": WORDS, "reasoning_effort": WORDS}
        ),
    },
)


@settings(max_examples=80, deadline=None)
@given(BODIES)
@example({"messages": [{"role": "developer", "content": "x"}, *HI], "reasoning_effort": "low"})
@example({"messages": [*HI, {"role": "assistant", "reasoning": "Hm."}], "thinking": True})
@example({"messages": ["x"]})
def test_every_request_has_a_prompt_or_a_sentence(ask, official, body: dict[str, Any]) -> None:
    answer = ask(body)
    if isinstance(answer, str):
        assert answer.endswith((".", "'user'.")) and "object has no attribute" not in answer
        assert "Error" not in answer and "unexpected keyword" not in answer
        return
    written = [in_our_words(message) for message in body["messages"]]
    prompts = []
    for level in ("none", "high", "max"):
        with suppress(ChatError):  # at some levels the encoder leaves what it cannot read
            prompts.append(official(written, level))
    assert answer in prompts


def in_our_words(message: dict[str, Any]) -> dict[str, Any]:
    role = {"developer": "system"}.get(message["role"], message["role"])
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return {**message, "role": role, "reasoning_content": reasoning}
