"""Conversations with a server's model: what is asked, what is kept, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from cli.options import Options
from cli.remote.chat_body import counting_body
from cli.remote.client import Comment, ServerClient, ServerError, ServerPlace
from cli.remote.remote_models import RemoteModels, check_remote_options
from cli.remote.streamed_reply import StreamedReply
from cli.serve.chat_completions import ChatCompletions
from cli.worker import Worker
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import (
    BudgetReached,
    Done,
    LoopNoticed,
    Progress,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError
from tests.cli.remote.server import ToldServer, text, told_server, usage
from tests.cli.serve.driven import context

TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
END = text(finish="stop")
USED = Usage(12, 3, 40, 32)
WITH_USAGE = {"include_usage": True}


@pytest.fixture
def told() -> Iterator[ToldServer]:
    with told_server() as server:
        yield server


@pytest.fixture
def models(told: ToldServer) -> Iterator[RemoteModels]:
    worker = Worker()
    yield RemoteModels(worker, Options(), ServerClient(ServerPlace.of(told.url)))
    assert worker.ends_within(10)


def begun(models: RemoteModels, **settings: Any) -> Conversation:
    model = models.first(Path())
    settings = {"thinking": model.settings.thinking(), "sampling": Sampling()} | settings
    return models.conversation(model, AnswerSettings(**settings))


def answers(conversation: Conversation) -> list[str]:
    return [turn.messages[1]["content"] for turn in conversation.turns]


def test_an_answer_comes_as_the_events_of_any_conversation(
    told: ToldServer, models: RemoteModels
) -> None:
    told.says(
        ": reading 3/9 tokens",
        ": reading 20/43 layers",
        text(role="assistant"),
        text(reasoning_content="Hm."),
        text("Fo"),
        text("ur."),
        END,
        usage(12, 3, 5, 2),
    )
    conversation = begun(models)
    events = list(conversation.send("2+2?"))
    assert events == [
        Progress(3, 9),
        Progress(3, 9, (20, 43)),
        ReasoningDelta("Hm."),
        TextDelta("Fo"),
        TextDelta("ur."),
        Done("stop", Usage(12, 3, 5, 2)),
    ]
    done = events[-1]
    assert isinstance(done, Done) and done.timing.prefill_s == 0.25
    assert done.timing.first_token_s is not None and done.timing.generated == 5
    assert (conversation.context().used, conversation.context().limit) == (17, 4096)
    assert conversation.turns[0].messages[1] == {
        "role": "assistant",
        "content": "Four.",
        "reasoning_content": "Hm.",
        "tool_calls": [],
    }


def test_the_dialogue_is_sent_whole_reasoning_included(
    told: ToldServer, models: RemoteModels
) -> None:
    told.says(text(reasoning_content="Hm."), text("Four."), END)
    told.says(text("Six."), END)
    conversation = begun(models, system="Be brief.")
    list(conversation.send("2+2?"))
    list(conversation.send("3+3?"))
    assert told.asked[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "Four.", "reasoning_content": "Hm."},
        {"role": "user", "content": "3+3?"},
    ]
    assert told.asked[1]["model"] == "flash"


def test_tools_are_called_here(told: ToldServer, models: RemoteModels) -> None:
    opened = {"index": 0, "id": "call_a", "function": {"name": "add", "arguments": ""}}
    told.says(
        text(tool_calls=[opened]),
        text(tool_calls=[{"index": 0, "function": {"arguments": '{"a": '}}]),
        text(tool_calls=[{"index": 0, "function": {"arguments": "2}"}}]),
        text(tool_calls=[opened | {"index": 1, "id": "call_b"}]),
        text(finish="tool_calls"),
    )
    told.says(text("Four."), END)
    conversation = begun(models, tools=(TOOL,))
    calls = [event for event in conversation.send("2+2?") if isinstance(event, ToolCall)]
    assert calls == [ToolCall("add", '{"a": 2}', "call_a"), ToolCall("add", "", "call_b")]
    list(conversation.answer_tools([("call_a", "4"), ("call_b", "5")]))
    assert told.asked[0]["tools"] == [{"type": "function", "function": TOOL}]
    roles = [message["role"] for message in told.asked[1]["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert told.asked[1]["messages"][1]["tool_calls"][0]["id"] == "call_a"
    assert len(conversation.turns) == 1


def test_what_a_person_set_is_said_and_the_rest_is_the_servers(
    told: ToldServer, models: RemoteModels
) -> None:
    told.model |= {"sampling": {"temperature": 0.6, "top_p": 0.95, "min_p": "no"}}
    assert models.first(Path()).settings.sampling == Sampling(temperature=0.6, top_p=0.95)
    told.says(END)
    told.says(END)
    conversation = begun(models, sampling=Sampling(temperature=0.6, top_p=0.5))
    list(conversation.send("a"))
    assert "temperature" not in told.asked[0] and told.asked[0]["top_p"] == 0.5
    conversation.settings = AnswerSettings(
        Thinking("thinking", "high"),
        sampling=Sampling(temperature=0, seed=7),
        max_tokens=9,
        budget=100,
        stop=("x",),
    )
    list(conversation.send("b"))
    wanted = {
        "temperature": 0,
        "seed": 8,  # each answer draws with another one
        "max_completion_tokens": 9,
        "reasoning_effort": "high",
        "thinking": {"type": "enabled", "budget_tokens": 100},
        "stop": ["x"],
    }
    assert wanted.items() <= told.asked[1].items()


def test_a_thinking_level_that_nobody_set_is_the_servers(
    told: ToldServer, models: RemoteModels
) -> None:
    told.model["reasoning_level"] = "high"
    checkpoint = models.first(Path()).settings
    assert checkpoint.thinking() == Thinking("thinking", "high")
    for level, sent in ((None, None), ("high", None), ("none", "none"), ("low", "low")):
        told.says(END)
        list(begun(models, thinking=checkpoint.thinking(level)).send("a"))
        assert told.asked[-1].get("reasoning_effort") == sent
    told.says(END)
    list(begun(models, budget=9).send("a"))
    assert told.asked[-1]["reasoning_effort"] == "high"  # a budget alone asks for another one


@pytest.mark.parametrize("level", ["extreme", 3, None, ["low"]])
def test_a_level_that_there_is_not_is_none_of_the_servers(
    level: Any, told: ToldServer, models: RemoteModels
) -> None:
    told.model["reasoning_level"] = level
    told.says(END)
    list(begun(models).send("a"))
    assert told.asked[0]["reasoning_effort"] == "low"


def test_it_is_told_why_the_server_ended_reasoning_or_answer(
    told: ToldServer, models: RemoteModels
) -> None:
    told.says(
        text(reasoning_content="Hm."),
        ": hard end of reasoning after 32 tokens",
        text("la la"),
        ": ended as a loop",
        END,
        usage(12, 3, 40, 32),
    )
    events = list(begun(models).send("2+2?"))
    assert events[1] == BudgetReached("hard", 32)
    assert events[-1] == Done("loop", Usage(12, 3, 40, 32))


@pytest.mark.parametrize(
    "events",
    [
        [LoopNoticed("reasoning", 1, 60), LoopNoticed("answer", 7, 20), Done("length", USED)],
        [BudgetReached("soft", 9), Done("stop_text", USED, stop_text="END")],
        [Done("loop", USED)],
        [Done("stop", USED)],
    ],
)
def test_what_this_programs_own_server_writes_is_read_as_what_happened(events: list[Any]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream_options": WITH_USAGE}
    writer = ChatCompletions().read(body, context()).writer
    heard: list[Any] = []
    reply = StreamedReply(heard.append, 0.0)
    frames = [frame for event in events for frame in writer.event(0, event)]
    for frame in (*writer.begin(), *frames, *writer.end()):
        if frame.data != "[DONE]":
            reply.take(json.loads(frame.data) if frame.data else Comment(str(frame.comment)))
    assert [*heard, reply.done(cancelled=False)] == events


def test_a_budget_of_nothing_is_no_reasoning(told: ToldServer, models: RemoteModels) -> None:
    told.says(END)
    list(begun(models, budget=0).send("a"))
    assert told.asked[0]["reasoning_effort"] == "none" and "thinking" not in told.asked[0]


def test_going_back_needs_no_call(told: ToldServer, models: RemoteModels) -> None:
    for said in ("one", "two", "two again", "other"):
        told.says(text(said), END, usage(9, 0, 1))
    conversation = begun(models)
    list(conversation.send("1"))
    list(conversation.send("2"))
    other = conversation.fork()
    list(conversation.retry())
    assert answers(conversation) == ["one", "two again"]
    assert conversation.undo() == "2" and answers(conversation) == ["one"]
    assert answers(other) == ["one", "two"]
    list(other.edit(1, "3"))
    assert told.asked[3]["messages"] == [{"role": "user", "content": "3"}]
    conversation.clear()
    assert conversation.turns == () and conversation.context().used == 0


def test_a_cancelled_answer_stays_as_far_as_it_came(told: ToldServer, models: RemoteModels) -> None:
    told.says(text("Fo"), Flag())
    conversation = begun(models)
    events = []
    for event in conversation.send("2+2?"):
        events.append(event)
        conversation.cancel()
    assert events == [TextDelta("Fo"), Done("cancelled", Usage(0, 0, 1))]
    assert answers(conversation) == ["Fo"]
    assert told.left.wait(10)


def test_what_says_nothing_is_sent_as_that(told: ToldServer, models: RemoteModels) -> None:
    opened = {"index": 0, "id": "call_a", "function": {"name": "add", "arguments": "{}"}}
    told.says(text(tool_calls=[opened]), text(finish="tool_calls"))
    told.says(END)
    told.says(END)
    conversation = begun(models, tools=(TOOL,))
    list(conversation.send("2+2?"))
    list(conversation.answer_tools([("call_a", "")]))
    list(conversation.send("go on"))
    said = [(message["role"], message["content"]) for message in told.asked[2]["messages"]]
    assert said == [
        ("user", "2+2?"),
        ("assistant", ""),
        ("tool", ""),
        ("assistant", ""),
        ("user", "go on"),
    ]


def test_a_server_that_goes_away_loses_nothing(told: ToldServer, models: RemoteModels) -> None:
    told.says(text("one"), END)
    told.answers.append((text("tw"), None))
    told.says(text("two"), END)
    conversation = begun(models)
    list(conversation.send("1"))
    with pytest.raises(ServerError, match="ended in the middle"):
        list(conversation.send("2"))
    assert answers(conversation) == ["one"]
    list(conversation.send("2"))
    assert answers(conversation) == ["one", "two"]


def test_tokens_are_counted_by_the_server(told: ToldServer, models: RemoteModels) -> None:
    conversation = begun(models)
    assert conversation.count("what nobody counts") == 0
    with pytest.raises(UsageError, match="counts no tokens"):
        conversation.prompt_tokens(())
    told.counted = 11
    assert begun(models).prompt_tokens((), "a") == 11
    assert begun(models).count("a") == 1  # of 11 with one for "a", 10 stand around


def test_a_dialogue_is_counted_in_the_words_of_the_counter() -> None:
    turn = Turn.asking("2+2?").answered(
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "a", "function": {"name": "add", "arguments": '{"x": 1}'}}],
        },
        (),
        (),
    )
    settings = AnswerSettings(Thinking("thinking", "low"), system="s", tools=(TOOL,))
    assert counting_body("m", [turn.with_results([("a", "4")])], settings) == {
        "model": "m",
        "system": "s",
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"},
        "tools": [{"name": "add", "description": "adds", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": "2+2?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": "4"}],
            },
        ],
    }


def test_the_models_name_and_place_are_the_servers(told: ToldServer, models: RemoteModels) -> None:
    model = models.first(Path())
    assert model.name == "flash" and not model.is_embedded and model.assumed is None
    assert model.place == f"{told.url} flash"
    assert model.settings.levels == ("none", "low", "high", "max")
    assert "server decides" in model.why_no_drafts("auto") and model.notes() == []
    with pytest.raises(UsageError, match="the model is the server's"):
        models.open(Path("other"))


def test_a_server_without_a_model_is_no_server(told: ToldServer, models: RemoteModels) -> None:
    told.error = (200, {"data": []})
    with pytest.raises(ServerError, match="names no model"):
        models.first(Path())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (Options(model=Path("m")), "--model"),
        (Options(engine="fake:x"), "--engine"),
        (Options(compile=False), "--no-compile"),
        (Options(loop="stop"), "--loop"),
    ],
)
def test_options_of_a_model_of_ones_own_are_refused(options: Options, named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named} is about a model that is opened here"):
        check_remote_options(options)


def test_options_of_answers_are_not_refused() -> None:
    check_remote_options(Options(think="low", temperature=0, seed=1, tools=True, budget=9))
