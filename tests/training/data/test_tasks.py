"""Tasks: the same for the same seed, taught replies that their judges accept, splits apart."""

import random
import re
from itertools import islice, pairwise, product
from pathlib import Path

import pytest

from cli.tools.calculator import evaluate
from cli.tools.schema import read_arguments
from cli.tools.toolbox import Toolbox
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.parsing import parse
from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data import follow_up_wordings as asked
from dsv4_mlx.training.data import tool_tasks
from dsv4_mlx.training.data.judging import ExactNumber, FittingCall, KeyWords, NoCall, OneOf
from dsv4_mlx.training.data.recall import recall_drill
from dsv4_mlx.training.data.requests import REQUESTS, Request
from dsv4_mlx.training.data.task import in_split
from dsv4_mlx.training.data.tasks import MAKERS, tasks
from dsv4_mlx.training.data.tool_tasks import definitions
from dsv4_mlx.training.data.wordings import GROUP, plain

SPLITS = ("train", "held_out")


def some(kind, split, seed=0, count=60):
    return list(islice(tasks(kind, split, seed), count))


@pytest.fixture(scope="module")
def toolbox(tmp_path_factory):
    box = Toolbox(tmp_path_factory.mktemp("work"), lambda question: "")
    yield box
    box.close()


def questions(found):
    return {plain(task.messages[-1]["content"]) for task in found}


@pytest.mark.parametrize("kind", MAKERS)
def test_tasks_depend_on_their_seed_alone(kind):
    assert some(kind, "train") == some(kind, "train")
    assert some(kind, "train") != some(kind, "train", seed=1)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_taught_reply_is_judged_right_when_it_is_read_back(kind, split):
    for task in some(kind, split):
        own = (*task.messages, task.reply)
        said = str(encode_messages(own, thinking_mode=task.thinking_mode))
        prompt = str(task.prompt())
        assert said.startswith(prompt), task
        reply = said[len(prompt) :].partition("<｜end▁of▁sentence｜>")[0]
        assert task.judge(parse(reply, task.thinking_mode)), (task, reply)
        assert bool(task.reply.get("reasoning_content")) == (task.thinking_mode == "thinking")


@pytest.mark.parametrize("kind", MAKERS)
def test_no_other_answer_is_right(kind):
    for task in some(kind, "held_out"):
        assert not task.judge({"content": ""})
        if not isinstance(task.answer, NoCall):
            assert not task.judge({"content": "There are 12,345 of them."})
        if not isinstance(task.answer, FittingCall):
            function = {"name": "list_folder", "arguments": "{}"}
            content = task.reply["content"]
            assert not task.judge({"content": content, "tool_calls": [{"function": function}]})


@pytest.mark.parametrize("kind", MAKERS)
def test_both_modes_take_turns(kind):
    modes = [task.thinking_mode for task in some(kind, "train", count=6)]
    assert modes == ["chat", "thinking"] * 3
    one = islice(tasks(kind, "train", 0, "thinking"), 6)
    assert {task.thinking_mode for task in one} == {"thinking"}


@pytest.mark.parametrize("kind", MAKERS)
def test_no_held_out_wording_is_a_training_wording(kind):
    assert not questions(some(kind, "train", count=200)) & questions(some(kind, "held_out"))


def test_no_held_out_pattern_says_what_a_training_pattern_says():
    pairs = [
        (forms["train"], forms["held_out"])
        for forms in (asked.ASK_NAME, asked.ASK_TOLD, asked.ASK_CODE,
                      asked.ASK_TOPIC, tool_tasks._NOBODY_CAN)
    ]  # fmt: skip
    pairs += zip(asked.GO_ON["train"], asked.GO_ON["held_out"], strict=True)
    trained = {text for train, _ in pairs for pattern in train for text in every_wording(pattern)}
    held_out = [text for _, kept in pairs for pattern in kept for text in every_wording(pattern)]
    assert len(held_out) == len(set(held_out)) > 60
    assert not set(held_out) & trained


def test_the_held_out_ways_to_ask_for_something_stand_in_no_request_of_a_lesson():
    ways = ("please ", "can you ", "i want you to ")
    # Requests, with or without a tool that fits; sums and help have wordings of their own.
    unfitting = [
        task
        for task in some("no_tool", "train", count=300)
        if task.template.startswith(("nobody/", "other/"))
    ]
    asked = [
        plain(message["content"])
        for task in (*some("tools", "train", count=300), *unfitting)
        for message in task.lesson()
        if message["role"] == "user"
    ]
    held_out = questions(some("tools", "held_out"))
    assert sum(question.startswith(ways) for question in held_out) > len(held_out) / 2
    assert len(asked) > 900
    assert [question for question in asked if question.startswith(ways)] == []


def every_wording(pattern):
    """All texts of a pattern, as their words alone."""
    parts = GROUP.split(pattern)  # what stands in a group is every second one
    choices = [part.split("|") if n % 2 else [part] for n, part in enumerate(parts)]
    return {plain("".join(chosen)) for chosen in product(*choices)}


@pytest.mark.parametrize("mode", ["chat", "thinking"])
def test_drills_ask_for_what_their_text_says_and_never_for_a_held_out_pair(mode):
    rng = random.Random(0)
    for _ in range(40):
        task = recall_drill(rng, mode)
        text, question = task.messages[0]["content"].rsplit("\n\n", 1)
        assert task.judge(task.reply) and not task.judge({"content": question})
        for reply in (one for one in task.lesson() if one["role"] == "assistant"):
            said = reply["content"].removeprefix("The text says: ").split(". ")
            assert len(said) >= 2
            for one in said:
                assert one.rstrip(".") + "." in text
                key, value = one.split()[0], one.rstrip(".").split()[-1]
                assert task.traits["form"] != "list" or in_split(f"{key} {value}", "train")
                assert value in task.copied


def test_a_kind_that_is_none_is_one_sentence():
    with pytest.raises(UsageError, match=r"arithmetic, .* got 'poetry'"):
        next(tasks("poetry", "train", 0))


def test_one_fact_in_ten_is_held_out():
    held_out = [in_split(str(number), "held_out") for number in range(2000)]
    assert 150 < sum(held_out) < 250
    assert all(in_split(str(n), "train") != held_out[n] for n in range(2000))


def test_a_number_has_to_be_the_last_one_said():
    answer = ExactNumber(1204)
    assert answer.accepts({"content": "12 and 1192 make 1,204."})
    assert not answer.accepts({"content": "1204 or 1205"})
    assert not answer.accepts({"content": "-1204"})


def test_key_words_are_found_in_any_case_and_all_of_them():
    answer = KeyWords(("Make chat", "tests"))
    assert answer.accepts({"content": "Type `make chat`; the TESTS come later."})
    assert not answer.accepts({"content": "Type `make chat`."})


def test_the_first_value_named_counts():
    answer = OneOf("marble", frozenset({"marble", "copper"}))
    assert answer.accepts({"content": "It is Marble."})
    assert not answer.accepts({"content": "copper or marble"})
    assert not answer.accepts({"content": "No idea."})


def test_a_call_fits_by_name_and_arguments():
    answer = FittingCall("calculator", {"expression": "12 * 3"})

    def call(name, arguments):
        return {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}

    assert answer.accepts(call("calculator", '{"expression": "12*3"}'))
    assert answer.accepts(call("calculator", {"expression": " 12 * 3"}))
    assert not answer.accepts(call("calculator", '{"expression": "12 * 4"}'))
    assert not answer.accepts(call("calculator", '{"expression": "12 * 3", "more": 1}'))
    assert not answer.accepts(call("run_command", '{"expression": "12 * 3"}'))
    assert not answer.accepts(call("calculator", "12 * 3"))
    one = call("calculator", '{"expression": "12*3"}')["tool_calls"]
    assert not answer.accepts({"tool_calls": one * 2})
    lines = FittingCall("read_file", {"lines": 1})
    assert not lines.accepts(call("read_file", {"lines": True}))


def test_the_tools_are_those_of_the_program(toolbox):
    assert list(definitions().values()) == toolbox.definitions()


def test_taught_calls_fit_the_schemas_of_the_program(toolbox):
    schemas = {
        one["function"]["name"]: one["function"]["parameters"] for one in toolbox.definitions()
    }
    for task in some("tools", "train", count=200):
        call = task.reply["tool_calls"][0]["function"]
        assert call["name"] in [one["function"]["name"] for one in task.tools]
        arguments = read_arguments(call["arguments"], schemas[call["name"]])
        if call["name"] == "calculator":
            assert evaluate(arguments["expression"]) == task.after[0]["content"]


def test_sums_and_their_reasoning_are_right():
    for task in some("arithmetic", "train", count=300):
        thought = task.reply.get("reasoning_content", "")
        asked, _, steps = thought.partition(": ")
        for step in steps.split(", ")[:-1]:
            terms, _, value = step.partition("=")
            assert evaluate(terms) == value.split()[0]
        if thought:
            assert evaluate(asked) == task.reply["content"] == steps.split()[-1]


def test_carries_are_counted():
    from dsv4_mlx.training.data.arithmetic import Sum, in_english

    assert (
        Sum(348, "+", 276).worked() == "348+276: 8+6=14 carry 1, 4+7+1=12 carry 1, 3+2+1=6, so 624"
    )
    assert Sum(523, "-", 178).worked() == (
        "523-178: 13-8=5 borrow 1, 12-7-1=4 borrow 1, 5-1-1=3, so 345"
    )
    assert [Sum(17, "+", b).carries for b in (2, 25, 99)] == [0, 1, 1]
    assert Sum(999, "+", 1).carries == 2 and Sum(1000 - 1, "-", 999).carries == 0
    assert in_english(40) == "forty" and in_english(17) == "seventeen"
    assert in_english(95) == "ninety-five"


def test_paths_of_the_working_folder_alone_are_asked_for():
    for task in some("tools", "held_out"):
        path = Path(str(task.answer.arguments.get("path", ".")))
        assert not path.is_absolute() and ".." not in path.parts


def test_a_lesson_refuses_only_what_none_of_its_tools_does(monkeypatch):
    requests = {
        name: lambda rng, split, name=name: Request(name, "0", f"Do {name} now", {}, "", "done")
        for name in REQUESTS
    }
    monkeypatch.setattr(tool_tasks, "REQUESTS", requests)
    refused = set()
    for task in (*some("tools", "train", count=300), *some("no_tool", "train", count=300)):
        names = {tool["function"]["name"] for tool in task.tools}
        for question, reply in pairwise(task.lesson()):
            if reply.get("content") == tool_tasks.NO_TOOL:
                _, *asked = plain(question["content"]).rpartition("do ")
                name = asked[-1].partition(" ")[0]
                if name in requests:
                    assert not names & {name, "run_command"}
                    refused.add((name, task.kind))
    assert {kind for _, kind in refused} == {"tools", "no_tool"}
    assert {name for name, _ in refused} == set(requests) - {"calculator"}


def test_a_name_is_asked_for_in_the_first_turn_too():
    found = [task for task in some("follow_up", "train", count=600) if "name/" in task.template]
    first = [task for task in found if len(task.messages) == 1]
    assert first and all("not told" in task.reply["content"] for task in first)


def test_a_thought_says_truly_whether_the_wanted_tool_is_on_offer():
    seen = set()
    for task in (*some("tools", "train", count=300), *some("no_tool", "train", count=300)):
        names = {tool["function"]["name"] for tool in task.tools}
        for message in task.lesson():
            thought = message.get("reasoning_content", "")
            if found := re.match(r'Wanted: "(\w+)", (not )?on offer\.', thought):
                assert (found[1] in names) == (found[2] is None)
                for call in message.get("tool_calls", ()):
                    assert call["function"]["name"] == found[1]
                seen.add((bool(message.get("tool_calls")), found[2] is None))
            else:
                assert not message.get("tool_calls") or task.thinking_mode == "chat"
    # Called for, refused, and named where a question is which tools there are.
    assert seen == {(True, True), (False, False), (False, True)}


def test_lessons_have_the_tools_on_offer_named():
    found = [task for task in some("no_tool", "train", count=300) if task.template == "offer"]
    sizes, single = set(), set()
    for task in found:
        names = [tool["function"]["name"] for tool in task.tools]
        listed = ", ".join(f'"{name}"' for name in names)
        assert task.reply["content"] == f"My tools: {listed}."
        for question, reply in pairwise(task.after):
            if question["role"] == "user":
                name = question["content"].split('"')[1]
                told = "Yes, it is" if name in names else "No, it is not"
                assert reply["content"] == f"{told} on offer."
                single.add((name, name in names))
        assert task.answer == KeyWords(tuple(names)) and set(names) <= set(task.copied)
        sizes.add(len(names))
    assert len(sizes) > 3 and {task.thinking_mode for task in found} == {"chat", "thinking"}
    assert single == set(product(REQUESTS, (True, False)))
    assert all(task.answer == NoCall() for task in some("no_tool", "held_out", count=100))
