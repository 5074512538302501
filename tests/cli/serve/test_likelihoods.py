"""The likeliest tokens, penalties and biases, as chat completions and responses have them."""

import re
from typing import Any

import pytest

from cli.serve.chat_completions import ChatCompletions
from cli.serve.completions import CompletionsDialect
from cli.serve.faults import RequestFault
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals
from dsv4_mlx.chat.events import Done, TextDelta, Usage
from dsv4_mlx.engine.sampling import NO_SHIFTS, Shifts
from dsv4_mlx.scripted.fake import FakeModel, fake_engine, scripted
from dsv4_mlx.scripted.script import ScriptedReply
from dsv4_mlx.serving.events import TokenLikelihood
from tests.cli.serve.driven import Answered, Server, context
from tests.cli.serve.driven import script as driven_script
from tests.cli.serve.served_app import Answer, Served, asked, script, tokenizer

THINKS = "<think>A sum.</think>Hi there."
INCLUDED = ["message.output_text.logprobs"]
CALL = ScriptedReply("Hi there.", ({"name": "ls", "arguments": {}},))
LS = {"type": "function", "name": "ls", "parameters": {"type": "object"}}


def mild(text: str, **body: Any) -> Answer:
    """The answer of a model that would say `text`, and is not too sure of it for a bias."""
    size, controls = tokenizer().vocab_size, tokenizer().control_ids
    said = scripted([tokenizer().encode(text)], controls["<｜Assistant｜>"], tokenizer().eos_id)

    class Mild(Served):
        def engine(self) -> Any:
            return fake_engine(FakeModel(said, vocab_size=size))

    body = {"messages": [{"role": "user", "content": "Hello"}], **body}
    return Mild(script("unused")).run(lambda client: client.post("/v1/chat/completions", body))


def entries(answer: Answer) -> list[dict[str, Any]]:
    """What chat completions told of tokens, one after the other."""
    bodies = answer.chunks if "event-stream" in answer.headers["content-type"] else [answer.json]
    told = [choice["logprobs"] for body in bodies for choice in body["choices"]]
    return [entry for one in told if one for entry in one["content"]]


def check(told: list[dict[str, Any]], count: int, text: str = "Hi there.") -> None:
    assert b"".join(bytes(entry["bytes"]) for entry in told) == text.encode()
    for entry in told:
        likeliest = entry["top_logprobs"]
        assert len(likeliest) == count
        assert [set(one) for one in likeliest] == [{"token", "logprob", "bytes"}] * count
        logprobs = [one["logprob"] for one in likeliest]
        assert logprobs == sorted(logprobs, reverse=True)
        if count:  # the script is certain of what it says
            assert likeliest[0] == {key: entry[key] for key in ("token", "logprob", "bytes")}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_chat_tells_the_likeliest_of_every_token_of_the_text(streams: bool, count: int) -> None:
    body = {"reasoning_effort": "low", "logprobs": True, "top_logprobs": count}
    check(entries(asked(THINKS, stream=streams, **body)), count)


def test_chat_tells_what_the_model_thought_and_not_what_was_biased() -> None:
    (no,) = tokenizer().encode("No")
    body = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    plain = entries(mild("Hi there.", **body))
    (biased,) = entries(mild("Hi there.", **body, logit_bias={str(no): 100}))
    assert biased["token"] == "No"
    assert biased["top_logprobs"] == plain[0]["top_logprobs"]
    assert biased["logprob"] < plain[0]["logprob"]


def test_an_answer_with_bans_and_penalties_is_drawn_with_them() -> None:
    def text(**body: Any) -> Any:
        return mild("Hi there.", max_tokens=3, **body).json["choices"][0]["message"]["content"]

    (hi, *_), (no,), (use,) = (tokenizer().encode(one) for one in ("Hi there.", "No", "Use"))
    assert text(logit_bias={}, presence_penalty=0, frequency_penalty=0.0) == "Hi there."
    assert not text(logit_bias={str(hi): -100}).startswith("Hi")
    assert text(logit_bias={str(no): 100, str(use): 90}) == "NoNoNo"
    # By the logits themselves one of the two leads by less than what the other is penalised by.
    both = {str(no): 100, str(use): 100}
    assert {"No", "Use"} == set(re.findall("No|Use", text(logit_bias=both, frequency_penalty=2)))
    assert {"No", "Use"} == set(re.findall("No|Use", text(logit_bias=both, presence_penalty=2)))


@pytest.mark.parametrize("streams", [False, True])
def test_a_bias_of_a_token_that_there_is_not_is_an_error_of_the_dialect(streams: bool) -> None:
    size = tokenizer().vocab_size
    answer = asked("Hi.", logit_bias={str(size): 1}, stream=streams)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"] == f"logit_bias takes token ids from 0 to {size - 1}, got {size}."


def test_the_fields_are_read_into_shifts() -> None:
    def shifts(**fields: Any) -> Shifts:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        return ChatCompletions().read(body, context()).request.shifts

    assert shifts(logit_bias=None, presence_penalty=None) == NO_SHIFTS == shifts()
    found = shifts(logit_bias={"5": -100, "7": 0.5, "9": 0}, presence_penalty=1)
    assert found == Shifts(1.0, 0.0, ((5, -100.0), (7, 0.5)))
    with pytest.raises(RequestFault, match=r"^logit_bias must be a number from -100 to 100 for to"):
        shifts(logit_bias={"5": 100.5})


@pytest.mark.parametrize(
    ("dialect", "asked_for"),
    [
        (ChatCompletions(), {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True}),
        (CompletionsDialect(), {"prompt": "Hi", "logprobs": 0}),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_stream_holds_nothing_of_what_it_told(
    dialect: Any, asked_for: dict[str, Any], streams: bool
) -> None:
    """Of a long answer the likeliest tokens would be hundreds of megabytes."""
    writer = dialect.read({**asked_for, "stream": streams}, context()).writer
    events = [TokenLikelihood(40, -0.5), TextDelta("a"), TokenLikelihood(41, -0.5)]
    for event in (*events, TextDelta("b"), Done("stop", Usage(9, 0, 2))):
        writer.event(0, event)
    told = writer.whole()["choices"][0]["logprobs"]
    assert bool(told and (told.get("content") or told.get("tokens"))) is not streams


# Responses


def responded(reply: Any, **fields: Any) -> Answered:
    dialect = ResponsesDialect(Seals.for_now(), KeptResponses())
    body = {"model": "nano", "input": "Hi", **fields}
    return Server(dialect, driven_script(reply)).ask(body)


@pytest.mark.parametrize("count", [0, 3])
def test_responses_tell_the_likeliest_in_deltas_and_parts(count: int) -> None:
    answered = responded(THINKS, include=INCLUDED, top_logprobs=count)
    deltas = answered.of("response.output_text.delta")
    check([entry for delta in deltas for entry in delta["logprobs"]], count)
    (done,) = answered.of("response.output_text.done")
    check(done["logprobs"], count)
    (part,) = answered.whole["output"][1]["content"]
    assert part["logprobs"] == done["logprobs"]
    assert answered.whole["top_logprobs"] == count
    (added,) = (
        event["part"]
        for event in answered.of("response.content_part.added")
        if event["part"]["type"] == "output_text"
    )
    assert added["logprobs"] == []


def test_responses_tell_of_the_text_beside_calls_alone() -> None:
    answered = responded(CALL, include=INCLUDED, top_logprobs=1, tools=[LS])
    (part,) = answered.whole["output"][0]["content"]
    check(part["logprobs"], 1, "Hi there.\n\n")  # a token that ends behind the text is told whole
    assert answered.whole["output"][1]["type"] == "function_call"


def test_responses_tell_nothing_where_nobody_asks() -> None:
    answered = responded(THINKS)
    assert all(event["logprobs"] == [] for event in answered.of("response.output_text.delta"))
    assert answered.whole["output"][1]["content"][0]["logprobs"] == []
    with pytest.raises(RequestFault, match=r"^top_logprobs must be a whole number from 0 to 20"):
        responded(THINKS, top_logprobs=21)
