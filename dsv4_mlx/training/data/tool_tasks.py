"""Tasks with tools on offer: a call where one fits, and words where none does.

The definitions are the program's own, kept as data (`tool_definitions.json`), since training may
not import the program; a test compares the two.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.messages import to_json
from dsv4_mlx.files.documents import parse_json
from dsv4_mlx.training.data.frames import worded
from dsv4_mlx.training.data.judging import FittingCall, KeyWords, NoCall
from dsv4_mlx.training.data.requests import REQUESTS, TAUGHT, Request
from dsv4_mlx.training.data.task import MessageDict, Split, Task, assistant, user
from dsv4_mlx.training.data.wordings import typed

CallTurn = tuple[MessageDict, MessageDict, MessageDict, MessageDict]

NO_TOOL = "I have no tool for that."
_UNFITTING = "No tool does that."
_NOBODY_CAN: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "!(Send|Write) (an email|a letter|a message|a card) to (Anna|Ben|my mother|the office)",
        "!(Book|Buy|Order|Reserve) (a flight|a table|a pizza|tickets|a taxi|flowers|a room)",
        "!(Call|Phone) (Anna|Ben|my mother|the doctor|the office|a taxi)",
        "!(Play|Stop) (music|a song|the radio|a film|a game with me)",
        "!(Turn|Switch) (on|off) (the light|the lamp|the heating|the radio|the fan)",
        "!(Set|Make) (an alarm|a timer)( for ten minutes| for seven|)",
        "!(Take|Make) a (photo|picture|screenshot)( of me|)",
        "!(Translate|Print on paper) (this|my letter|the page)",
        "!(Clean|Sweep|Tidy) (the kitchen|the floor|my desk|the bathroom)",
        "!(Cook|Fry|Boil|Bake|Warm) (rice|an egg|a cake|some soup|the milk)",
        "!(Wash|Dry|Iron|Fold) (my shirt|the dishes|the towels|my coat)",
        "!(Repair|Mend|Fix) (my bike|the roof|the chair|my phone|my shoes)",
        "!(Carry|Lift|Move|Push) (the box|the sofa|my bag)( upstairs|)",
        "!(Walk|Brush|Wash) (the dog|the horse)",
        "!(Meet|Visit|Greet|Hug) (me|my aunt|Anna|the neighbours)",
        "!(Charge|Restart|Fetch) my (phone|watch|car)",
        "!(Sell|Rent|Paint) my (house|car|boat)",
        "!(Knit|Sew) (a scarf|a coat|a hat)( for me|)",
        "!(Cut|Mow|Trim) (the grass|my hair|the hedge)",
        "!(Dance|Swim|Jump|Sail) with me",
        "!(Hum|Whistle|Shout) (a tune|something|my name)",
        "!(Sketch|Carve) (a cat|a house|me)( on paper|)",
        "!(Feed|Wash|Dress) (the bird|the baby|my son)",
        "!(Close|Shut) (the door|the gate|the curtain)",
        "!(Weigh|Taste|Smell) (the parcel|the soup|this)",
        "!(Heal|Cure) my (cold|headache|knee)",
        "!(Bring|Hand|Get) me (a glass of water|a chair|my coat|the salt|some bread)",
        "!(Drive|Fly|Take) (me|Anna) (home|to the airport|to work)",
        "!(Plant|Pick) (a tree|roses|some apples)",
        "!(Wake|Remind) (Anna|Ben|my brother) at (five|eight)",
        "!(Invite|Ask) (Ben|my aunt) to (lunch|the party)",
        "!(Lower|Raise) (the blind|the volume|the temperature)",
    ),
    "held_out": (
        "Please send an email to Carla",
        "Can you book a hotel for me",
        "I want you to play the piano",
        "Please turn on the coffee machine",
        "Wake me up at six",
        "Please ring my sister",
        "Can you keep two seats at the theatre for me",
        "I want you to sing to me",
        "Please dim the lamp in the kitchen",
        "Would you get me a salad",
        "Water the plants",
        "Drive me to the station",
        "Please post this parcel",
        "Could you paint a horse for me",
        "Bring me a cup of tea",
        "I need a car at nine",
        "Please feed the cat",
        "Open the window in my room",
        "Can you turn the volume up",
        "Pay the bill for the water",
        "Would you answer the door",
        "Record my voice",
        "Lock the front door",
        "Invite Carla to dinner",
    ),
}
_OFFER = (
    "(Which|What) tools (do you have|are there|can you call|are on offer)( here| now|)",
    "!(List|Name|Tell me) (your|the|all your|all the) tools",
    "(What|Which) can you call( here| now|)",
)
_OFFERED = (
    'Is (the tool |)"{name}", (on offer|there) or not',
    'Do you have (the tool |)"{name}", yes or no',
    'Can you call (the tool |)"{name}", or (is it missing|not)',
)
_MOST_NAMED = 8  # tools asked for by name in a lesson
_FOUND = (", on offer", "not on offer")  # what is read from the schemas
_MOST_MORE = 6  # requests of a lesson after its first
_FITTING = 0.6  # share of these that a tool fits
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


def weighed(wanted: str, names: Collection[str]) -> str:
    """The thought before a call or none: the tool that would do it, and whether `names` have it.

    The name stands as it does in the schemas, so that finding it there is one step of copying.
    """
    return f'Wanted: "{wanted}", {"" if wanted in names else "not "}on offer.'


def call_turn(rng: random.Random, request: Request, number: int, mode: ThinkingMode) -> CallTurn:
    """Question, call, what the tool gives back, and the answer to that."""
    identity = f"call_{number}"
    function = {"name": request.tool, "arguments": to_json(dict(request.arguments))}
    call = {"id": identity, "type": "function", "function": function}
    message = assistant("", weighed(request.tool, (request.tool,)), mode) | {"tool_calls": [call]}
    return (
        user(typed(request.question, rng, slips=False)),
        message,
        {"role": "tool", "tool_call_id": identity, "content": request.result},
        assistant(request.told, "The result is there.", mode),
    )


def more_turns(
    rng: random.Random, split: Split, mode: ThinkingMode, names: Sequence[str]
) -> tuple[MessageDict, ...]:
    """Further requests of a lesson that has the tools `names`: its schemas are long, so that one
    request alone would teach little for its tokens. None in the evaluation.
    """
    found: list[MessageDict] = []
    missing = _missing(names)
    for number in range(1, 1 + rng.randint(0, _MOST_MORE) if split == "train" else 1):
        if rng.random() < _FITTING:
            found += call_turn(rng, REQUESTS[rng.choice(names)](rng, split), number, mode)
        else:
            another = missing and rng.random() < 0.5
            asked = _another(rng, split, missing) if another else _nobody(rng, split)
            found += [user(asked.question), assistant(NO_TOOL, asked.thought, mode)]
    return tuple(found)


def _missing(names: Collection[str]) -> list[str]:
    """Tools whose requests no tool of `names` answers."""
    if "run_command" in names:  # a command shows files as well, and lists, writes, searches them
        return []
    return [name for name in REQUESTS if name not in {*names, "calculator"}]


def called_with(messages: Iterable[MessageDict]) -> tuple[str, ...]:
    """The texts that calls of these messages have as arguments, and what thoughts say of tools."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    values = [value for call in calls for value in parse_json(call["arguments"]).values()]
    return (*{value: None for value in values if isinstance(value, str)}, *_FOUND)


def tool_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """A request that one of the offered tools fits; the lesson goes on to its result."""
    name = rng.choice(TAUGHT if split == "train" else list(REQUESTS))
    request = REQUESTS[name](rng, split)
    names = offered(rng, wanted=name)
    question, reply, *after = call_turn(rng, request, 0, mode)
    messages = (system(names), question)
    after = [*after, *more_turns(rng, split, mode, names)]
    return Task(
        kind="tools",
        template=f"{name}/{split}{request.template}",
        messages=messages,
        thinking_mode=mode,
        answer=FittingCall(name, request.arguments),
        reply=reply,
        tools=tuple(messages[0]["tools"]),
        after=tuple(after),
        copied=called_with([reply, *after]),
        traits={"tool": name, "offered": len(names)},
    )


def unfitting_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """A request that none of the offered tools fits: another tool would, or none there is."""
    asked = (_another if rng.random() < 0.5 else _nobody)(rng, split)
    names = offered(rng, never=would_do(asked.wanted))
    messages = (system(names), user(asked.question))
    after = more_turns(rng, split, mode, names)
    return _no_call(asked.template, messages, assistant(NO_TOOL, asked.thought, mode), mode, after)


def would_do(wanted: str | None) -> tuple[str, ...]:
    """The tools that do what `wanted` does: a command does what any of them does."""
    return (wanted, "run_command") if wanted else ()


def offer_task(rng: random.Random, mode: ThinkingMode) -> Task:
    """A lesson that has the tools on offer named, all and no other, and asks for single ones: a
    small model calls tools that are not there, since little of what it learns says which ones are.
    """
    names = offered(rng)
    question = user(typed(worded(rng.choice(_OFFER), rng), rng, slips=False))
    listed = ", ".join(f'"{name}"' for name in names)
    reply = assistant(f"My tools: {listed}.", "The user asks for my tools.", mode)
    after: list[MessageDict] = []
    for _ in range(rng.randint(2, _MOST_NAMED)):
        name = rng.choice(list(definitions()))
        told = "Yes, it is on offer." if name in names else "No, it is not on offer."
        asked = worded(rng.choice(_OFFERED), rng).format(name=name)
        after += [user(asked), assistant(told, weighed(name, names), mode)]
    task = _no_call("offer", (system(names), question), reply, mode, tuple(after))
    return replace(task, answer=KeyWords(tuple(names)), copied=(*names, *_FOUND))


@dataclass(frozen=True)
class _Unfitting:
    """A request that is not to be met; `wanted` is the tool that would, None where none does."""

    question: str
    template: str
    wanted: str | None = None

    @property
    def thought(self) -> str:
        """What is thought before it is refused."""
        return _UNFITTING if self.wanted is None else weighed(self.wanted, ())


def _another(rng: random.Random, split: Split, missing: Sequence[str] = ()) -> _Unfitting:
    """A request for a tool, one of `missing` if there are any."""
    name = rng.choice(missing or _missing(()))
    question = typed(REQUESTS[name](rng, split).question, rng, slips=False)
    return _Unfitting(question, f"other/{name}", name)


def _nobody(rng: random.Random, split: Split) -> _Unfitting:
    patterns = _NOBODY_CAN[split]
    index = rng.randrange(len(patterns))
    return _Unfitting(typed(worded(patterns[index], rng), rng, slips=False), f"nobody/{index}")


def needless_task(rng: random.Random, split: Split, task: Task, wanted: str | None = None) -> Task:
    """`task`, which needs no tool, asked while tools are on offer; the answer stays the same.

    `wanted` would have done it too, as the calculator a sum, and is not on offer.
    """
    asked = tuple(message for message in task.messages if message["role"] != "system")
    names, mode = offered(rng, never=would_do(wanted)), task.thinking_mode
    thought = "No tool is needed." if wanted is None else weighed(wanted, names)
    reasoning = f"{thought} {task.reply.get('reasoning_content', '')}".strip()
    reply = assistant(task.reply["content"], reasoning, mode)
    after = more_turns(rng, split, mode, names)
    return _no_call(f"{task.kind}/{task.template}", (system(names), *asked), reply, mode, after)


def _no_call(
    template: str,
    messages: tuple[MessageDict, ...],
    reply: MessageDict,
    mode: ThinkingMode,
    after: tuple[MessageDict, ...],
) -> Task:
    """A task in which tools are offered and none is to be called."""
    return Task(
        kind="no_tool",
        template=template,
        messages=messages,
        thinking_mode=mode,
        answer=NoCall(),
        reply=reply,
        tools=tuple(messages[0]["tools"]),
        after=after,
        copied=called_with(after),
        traits={"offered": len(messages[0]["tools"])},
    )
