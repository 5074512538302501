"""Tasks with tools on offer: a call where one fits, and words where none does.

The definitions are the program's own, kept as data (`tool_definitions.json`), since training may
not import the program; a test compares the two.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.messages import to_json
from dsv4_mlx.files.documents import parse_json
from dsv4_mlx.training.data.judging import FittingCall, NoCall
from dsv4_mlx.training.data.requests import REQUESTS, Request
from dsv4_mlx.training.data.task import Split, Task, assistant, user
from dsv4_mlx.training.data.wordings import typed, wording

NO_TOOL = "I have no tool for that."
_NOBODY_CAN: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "(Send|Write) (an email|a letter|a message) to (Anna|Ben|my mother|my friend|the office)",
        "(Book|Buy|Order|Reserve) (a flight|a table|a pizza|tickets|a taxi|flowers)( for me|)",
        "(Call|Phone) (Anna|Ben|my mother|the doctor|the office)( now| please|)",
        "(Play|Stop) (music|a song|the radio|a film)( please| now|)",
        "(Turn|Switch) (on|off) (the light|the lamp|the heating|the radio)",
        "(Set|Make) (an alarm|a timer)( for ten minutes| for seven| please|)",
        "(Take|Make) a (photo|picture|screenshot)( of me| please|)",
        "(Translate|Print on paper) (this|my letter|the page)( please|)",
    ),
    "held_out": (
        "Please send an email to Carla",
        "Can you book a hotel for me",
        "I want you to play the piano",
        "Please turn on the coffee machine",
        "Wake me up at six",
    ),
}
_MOST_OFFERED = 3  # schemas are long; all of them are offered in one task of eight


@lru_cache(maxsize=1)
def definitions() -> Mapping[str, Mapping[str, Any]]:
    """The program's own tools by name, as the model is told about them."""
    text = resources.files(__package__).joinpath("tool_definitions.json").read_text("utf-8")
    return {tool["function"]["name"]: tool for tool in parse_json(text)}


def offered(
    rng: random.Random, *, wanted: str | None = None, never: Collection[str] = ()
) -> list[str]:
    """Names of some tools in the program's order, `wanted` among them and none of `never`."""
    others = [name for name in definitions() if name != wanted and name not in never]
    most = len(others) if rng.random() < 1 / 8 else _MOST_OFFERED - bool(wanted)
    chosen = {*rng.sample(others, rng.randint(0 if wanted else 1, most)), wanted}
    return [name for name in definitions() if name in chosen]


def system(names: Sequence[str]) -> dict[str, Any]:
    """The system message that offers the tools `names`, as the program writes it."""
    return {"role": "system", "content": "", "tools": [definitions()[name] for name in names]}


def call_message(request: Request, number: int, mode: ThinkingMode) -> dict[str, Any]:
    """The assistant message that makes the call."""
    function = {"name": request.tool, "arguments": to_json(dict(request.arguments))}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    message = assistant("", f"The tool {request.tool} fits.", mode)
    return message | {"tool_calls": [call]}


def tool_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """A request that one of the offered tools fits; the lesson goes on to its result."""
    name = rng.choice(list(REQUESTS))
    request = REQUESTS[name](rng, split)
    messages = (system(offered(rng, wanted=name)), user(typed(request.question, rng, slips=False)))
    result = {"role": "tool", "tool_call_id": "call_0", "content": request.result}
    return Task(
        kind="tools",
        template=f"{name}/{split}{request.template}",
        messages=messages,
        thinking_mode=mode,
        answer=FittingCall(name, request.arguments),
        reply=call_message(request, 0, mode),
        tools=tuple(messages[0]["tools"]),
        after=(result, assistant(request.told, "The result is there.", mode)),
        traits={"tool": name, "offered": len(messages[0]["tools"])},
    )


def unfitting_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """A request that none of the offered tools fits: another tool would, or none there is."""
    if rng.random() < 0.5:
        name = rng.choice([name for name in REQUESTS if name != "calculator"])
        question, template = REQUESTS[name](rng, split).question, f"other/{name}"
        # A command shows files as well, and lists, writes and searches them.
        names = offered(rng, never=(name, "run_command"))
    else:
        patterns = _NOBODY_CAN[split]
        index = rng.randrange(len(patterns))
        question, template = wording(patterns[index], rng), f"nobody/{index}"
        names = offered(rng)
    messages = (system(names), user(typed(question, rng, slips=False)))
    return no_call(template, messages, NO_TOOL, "No tool fits.", mode)


def needless_task(rng: random.Random, task: Task, never: Collection[str] = ()) -> Task:
    """`task`, which needs no tool, asked while tools are on offer; the answer stays the same."""
    asked = tuple(message for message in task.messages if message["role"] != "system")
    messages = (system(offered(rng, never=never)), *asked)
    reasoning = f"No tool is needed. {task.reply.get('reasoning_content', '')}".strip()
    content = task.reply["content"]
    return no_call(f"{task.kind}/{task.template}", messages, content, reasoning, task.thinking_mode)


def no_call(
    template: str,
    messages: tuple[Mapping[str, Any], ...],
    content: str,
    reasoning: str,
    mode: ThinkingMode,
) -> Task:
    """A task in which tools are offered and none is to be called."""
    return Task(
        kind="no_tool",
        template=template,
        messages=messages,
        thinking_mode=mode,
        answer=NoCall(),
        reply=assistant(content, reasoning, mode),
        tools=tuple(messages[0]["tools"]),
        traits={"offered": len(messages[0]["tools"])},
    )
