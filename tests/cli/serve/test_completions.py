"""Texts that are gone on with."""

from collections.abc import Sequence
from typing import Any

import pytest

from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from tests.cli.serve.served_app import Answer, Client, Served, script, tokenizer

PATH = "/v1/completions"


def served(text: str = " and more") -> Served:
    """A server that goes on with any text in the same way."""
    said = [*tokenizer().encode(text), tokenizer().eos_id]
    prompt = len(tokenizer().encode("Once upon")) + 1

    def next_token(history: Sequence[int]) -> int:
        return said[min(len(history) - prompt, len(said) - 1)]

    class Raw(Served):
        def engine(self) -> Any:
            return fake_engine(FakeModel(next_token, vocab_size=tokenizer().vocab_size))

    return Raw(script("unused"))


def completed(**body: Any) -> Answer:
    body = {"prompt": "Once upon", "max_tokens": 20, **body}
    return served().run(lambda client: client.post(PATH, body))


def test_a_text_is_gone_on_with() -> None:
    answer = completed()
    (choice,) = answer.json["choices"]
    assert choice == {
        "index": 0, "text": " and more", "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    assert answer.json["object"] == "text_completion"
    assert answer.json["usage"]["prompt_tokens"] == 1 + len(tokenizer().encode("Once upon"))


def test_a_stream_gives_the_same_text_and_ends_with_done() -> None:
    answer = completed(stream=True, stream_options={"include_usage": True})
    *chunks, last = answer.chunks
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " and more"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert answer.frames[-1] == "data: [DONE]"


def test_sixteen_tokens_are_written_where_nobody_says_how_many() -> None:
    async def work(client: Client) -> Answer:
        return await client.post(PATH, {"prompt": "Once upon"})

    answer = served(" word" * 40).run(work)
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 16


def test_minus_one_is_no_bound_on_tokens() -> None:
    async def work(client: Client) -> Answer:
        return await client.post(PATH, {"prompt": "Once upon", "max_tokens": -1})

    answer = served(" word" * 40).run(work)
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    assert answer.json["usage"]["completion_tokens"] > 40


@pytest.mark.parametrize("streams", [False, True])
def test_the_likeliest_stand_beside_each_token_and_the_drawn_one_among_them(streams: bool) -> None:
    answer = completed(logprobs=2, stream=streams, temperature=1.0, seed=2)
    bodies = answer.chunks if streams else [answer.json]
    told = [body["choices"][0]["logprobs"] for body in bodies]
    tokens = [token for one in told for token in one["tokens"]]
    assert "".join(tokens) == " and more"
    beside = [likeliest for one in told for likeliest in one.get("top_logprobs", ())]
    logprobs = [logprob for one in told for logprob in one["token_logprobs"]]
    for token, logprob, likeliest in zip(tokens, logprobs, beside, strict=True):
        assert likeliest[token] == logprob
        assert 2 <= len(likeliest) <= 3


def test_a_drawn_token_that_is_none_of_the_likeliest_is_one_more() -> None:
    text = " or less"
    bias = {str(token): 100 for token in tokenizer().encode(text)[:1]}
    answer = completed(logprobs=1, logit_bias=bias, max_tokens=1)
    (told,) = [choice["logprobs"] for choice in answer.json["choices"]]
    assert list(told["top_logprobs"][0]) == [" and", " or"]
    assert told["top_logprobs"][0][" or"] == told["token_logprobs"][0]


def test_a_part_of_a_character_is_told_as_its_bytes() -> None:
    told = completed(logprobs=1, logit_bias={str(first_byte()): 100}, max_tokens=1)
    (choice,) = told.json["choices"]
    assert choice["logprobs"]["tokens"] == ["bytes:\\xe2"]
    assert "bytes:\\xe2" in choice["logprobs"]["top_logprobs"][0]


def first_byte() -> int:
    """The token of a byte that begins a character."""
    tokens = range(tokenizer().vocab_size)
    return next(token for token in tokens if tokenizer().token_bytes(token) == b"\xe2")


@pytest.mark.parametrize("streams", [False, True])
def test_each_drawn_token_has_its_logarithm(streams: bool) -> None:
    answer = completed(logprobs=0, stream=streams)
    bodies = answer.chunks if streams else [answer.json]
    told = [body["choices"][0]["logprobs"] for body in bodies]
    tokens = [token for one in told for token in one["tokens"]]
    assert "".join(tokens) == " and more"
    assert len(tokens) == sum(len(one["token_logprobs"]) for one in told)


@pytest.mark.parametrize("streams", [False, True])
def test_each_token_has_its_place_in_the_text(streams: bool) -> None:
    text = " naïve 😀😀 end"

    async def work(client: Client) -> Answer:
        body = {"prompt": "Once upon", "logprobs": 0, "stream": streams, "max_tokens": 99}
        return await client.post(PATH, body)

    answer = served(text).run(work)
    bodies = answer.chunks if streams else [answer.json]
    places = [at for body in bodies for at in body["choices"][0]["logprobs"]["text_offset"]]
    spelled = [tokenizer().token_bytes(token) for token in tokenizer().encode(text)]
    assert any(one.decode("utf-8", "ignore").encode() != one for one in spelled)
    begun = [b"".join(spelled[:count]) for count in range(len(spelled))]
    assert places == [len(one.decode("utf-8", "ignore")) for one in begun]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logit_bias": {"5": -101}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_not_offered_is_named(body: dict[str, Any], field: str) -> None:
    answer = completed(**body)
    assert answer.status == 400 and answer.json["error"]["param"] == field
