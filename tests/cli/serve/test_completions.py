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


@pytest.mark.parametrize("streams", [False, True])
def test_each_drawn_token_has_its_logarithm(streams: bool) -> None:
    answer = completed(logprobs=0, stream=streams)
    bodies = answer.chunks if streams else [answer.json]
    told = [body["choices"][0]["logprobs"] for body in bodies]
    tokens = [token for one in told for token in one["tokens"]]
    assert "".join(tokens) == " and more"
    assert len(tokens) == sum(len(one["token_logprobs"]) for one in told)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 5}, "logprobs"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_not_offered_is_named(body: dict[str, Any], field: str) -> None:
    answer = completed(**body)
    assert answer.status == 400 and answer.json["error"]["param"] == field
