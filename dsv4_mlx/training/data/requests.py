"""Requests that one tool of the program fits: wordings, the call, and what the tool gives back.

Held out are wordings of their own and one value in ten: paths, words to search, sums and texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsv4_mlx.training.data.frames import worded
from dsv4_mlx.training.data.task import Split, in_split
from dsv4_mlx.training.data.words import coined, lesson_word, words

_STEMS = words("stems")
_ENDINGS = words("endings")
_FOLDERS = words("folders")
_SEARCHED = words("searched")
_COMMANDS = (
    "make", "make test", "make lint", "make clean", "git status", "git log", "git diff", "ls",
    "ls -l", "pwd", "date", "whoami", "uptime", "df -h", "du -sh", "python --version", "pytest",
    "ruff check", "npm test", "npm install", "cargo build", "cargo test", "cmake", "hostname",
)  # fmt: skip
_PIECES = (
    "py", "test", "lint", "git", "web", "node", "doc", "build", "fmt", "sh", "make", "pip", "run",
    "log", "db", "ssh", "env", "check", "watch", "bench",
)  # fmt: skip
_TEXTS = (
    "hello world", "buy milk", "call Anna", "it works", "good morning", "see you soon",
    "the first line", "done", "nothing yet", "be back at ten", "thank you", "to do",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A question and the one call that fits; `result` is what the tool says, `told` the answer."""

    tool: str
    template: str
    question: str
    arguments: Mapping[str, Any]
    result: str
    told: str


def drawn_path(rng: random.Random, split: Split) -> str:
    """A path of the split, half of them in a folder; lessons have longer names as well."""
    while True:
        folder = f"{_word(_FOLDERS, rng, split)}/" if rng.random() < 0.5 else ""
        path = folder + _word(_STEMS, rng, split) + _more(rng, split) + rng.choice(_ENDINGS)
        if in_split(path, split):
            return path


def _more(rng: random.Random, split: Split) -> str:
    """What a name of a file may go on with in lessons: a number, or another word."""
    if split == "held_out" or rng.random() < 0.5:
        return ""
    return rng.choice((str(rng.randint(1, 99)), f"_{rng.choice(_STEMS)}", f"-{rng.choice(_STEMS)}"))


def _drawn_folder(rng: random.Random, split: Split) -> str:
    """A folder of the split, half of them in another folder."""
    while True:
        inner = f"/{_word(_STEMS, rng, split)}" if rng.random() < 0.5 else ""
        folder = _word(_FOLDERS, rng, split) + inner
        if in_split(folder, split):
            return folder


def _word(listed: tuple[str, ...], rng: random.Random, split: Split) -> str:
    return lesson_word(rng, listed) if split == "train" else rng.choice(listed)


def _of_split(values: tuple[str, ...], rng: random.Random, split: Split) -> str:
    return rng.choice([value for value in values if in_split(value, split)])


def _wordings(
    rng: random.Random, split: Split, train: tuple[str, ...], held_out: tuple[str, ...]
) -> tuple[str, str]:
    """The number of a pattern as text, and one wording of it."""
    patterns = train if split == "train" else held_out
    index = rng.randrange(len(patterns))
    return str(index), worded(patterns[index], rng)


def _calculator(rng: random.Random, split: Split) -> Request:
    while True:
        a, b = rng.randint(2, 999), rng.randint(2, 99)
        symbol, word, value = rng.choice(
            (("*", "times", a * b), ("+", "plus", a + b), ("-", "minus", a - b))
        )
        if in_split(f"{a} {symbol} {b}", split):
            break
    index, text = _wordings(
        rng,
        split,
        (
            "(What is|How much is|What's|) {a} {symbol} {b}",
            "(What is|How much is|What's|) {a} {word} {b}",
            "!(Calculate|Compute|Work out|Figure out|Evaluate|Find) {a} {symbol} {b}",
            "!(Calculate|Compute|Work out|Figure out|Evaluate|Find) {a} {word} {b}",
            "!(Use|Take) the calculator(:| for) {a} {symbol} {b}",
            "!(Say|Tell me|Find out) (what|how much) {a} {word} {b} (makes|gives)",
            "!(Give|Show|Tell) me (the result of|) {a} {symbol} {b}",
            "(What does|How much does) {a} {word} {b} (make|give)",
            "{a} {symbol} {b} (is what|makes what|=)",
        ),
        ("Tell me what {a} {symbol} {b} is", "Please calculate {a} {word} {b}"),
    )
    question = text.format(a=a, b=b, symbol=symbol, word=word)
    arguments = {"expression": f"{a} {symbol} {b}"}
    return Request("calculator", index, question, arguments, str(value), str(value))


def _read_file(rng: random.Random, split: Split) -> Request:
    path, count = drawn_path(rng, split), rng.randint(2, 99)
    text = rng.choice(_TEXTS)
    whole: tuple[str, ...] = (
        "!(Read|Open|Show|Show me|Print|View|Get|Load) (the file |the text of |){path}",
        "!(Look|Have a look) (at|into|inside) (the file |){path}",
        "!(Tell me|Say|Find out) what (is in|stands in|is written in) (the file |){path}",
        "!(Display|Fetch|Give me) the (text|content|contents|lines) of {path}",
        "(What is|What stands|What's|What is written) in (the file |){path}",
        "(What does|Tell me what) {path} (say|says)",
        "I (would like|need|have|wish) to (see|read|know) (the file |what is in |){path}",
        "(Which|What) text (is in|has|does it have in) {path}",
    )
    part: tuple[str, ...] = (
        "!(Read|Show|Show me|Print|View|Get) (the first|only the first|) {count} lines of {path}",
        "!(Read|Show|Print) {path}(, but|) (only |)the first {count} lines",
        "What (is|stands) in the first {count} lines of {path}",
    )
    from_line: tuple[str, ...] = (
        "!(Read|Show|Show me|Print|View|Get) (the file |){path} from line {count}( on|)",
        "!(Read|Show|Print|View) {path}(,|) (beginning|starting) (at|with) line {count}",
        "What (is|stands) in {path} from line {count}( on|)",
    )
    if split == "held_out":
        whole = ("Please read {path}", "Can you show me what is in {path}")
        part = ("I need the first {count} lines of {path}",)
        from_line = ("Please read {path} from line {count} on",)
    form = rng.choices((0, 1, 2), (6, 2, 2))[0]
    patterns = (whole, part, from_line)[form]
    index, text_asked = _wordings(rng, split, patterns, patterns)
    question = text_asked.format(path=path, count=count)
    extra: Mapping[str, Any] = ({}, {"lines": count}, {"first_line": count})[form]
    told = f"It says: {text}"
    return Request("read_file", f"{form}{index}", question, {"path": path, **extra}, text, told)


def _list_folder(rng: random.Random, split: Split) -> Request:
    here = rng.random() < 0.3
    folder = _drawn_folder(rng, split)
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    train, held_out = (
        (
            "!(List|Show|Show me|Print) (the folder |the files in |everything in |){folder}",
            "!(Look|Have a look) (into|inside|in) the folder {folder}",
            "!(Tell me|Say|Find out) what (is|lies) in the folder {folder}",
            "(Which|What) files (are|lie) (there |)in (the folder |){folder}",
            "What (is|lies|do I have) in the folder {folder}",
            "I (would like|need|wish) to see the (folder|files of) {folder}",
            "(Which|What) files does (the folder |){folder} (hold|have|contain)",
            "!(Tell me|Say|Show me) which files (the folder |){folder} (holds|contains|keeps)",
            "!(Tell me|Say|Find out) what (the folder |){folder} (holds|contains|has)",
        ),
        ("Please list {folder}", "Can you tell me which files {folder} has"),
    )
    if here:
        train, held_out = (
            (
                "!(List|Show|Show me|Print) (the|all|my|all my) files( here| in this folder|)",
                "!(List|Show|Print) (everything|what is) (here|in the working folder)",
                "!(Look|Have a look) around( here|)",
                "!(Tell me|Say|Find out) (what|which files) (is|are) (here|in this folder)",
                "(Which|What) files are (here|there|in this folder|in the working folder)",
                "(Which|What) files (do I have|have we)( here|)",
                "What is (here|in this folder|in the working folder)",
            ),
            ("Please list this folder", "Can you tell me which files are here"),
        )
    index, text = _wordings(rng, split, train, held_out)
    name = rng.choice(_STEMS) + rng.choice(_ENDINGS)
    arguments = {} if here else {"path": folder}
    result = f"{name}  {rng.randint(1, 900)} bytes"
    template = f"{'h' if here else 'f'}{index}"
    question = text.format(folder=folder)
    return Request("list_folder", template, question, arguments, result, f"There is {name}.")


def _search(rng: random.Random, split: Split) -> Request:
    while True:
        pattern, ending = _word(_SEARCHED, rng, split), rng.choice(_ENDINGS)
        folder = _word(_FOLDERS, rng, split)
        form = rng.choice(("all", "folder", "glob"))
        if in_split(f"{pattern} {ending} {folder} {form}", split):
            break
    where = {"all": "", "folder": f" in {folder}", "glob": f" in all *{ending} files"}[form]
    extra = {"all": {}, "folder": {"path": folder}, "glob": {"glob": f"*{ending}"}}[form]
    index, text = _wordings(
        rng,
        split,
        (
            "!(Search|Look) for (the word |){pattern}{where}",
            "!(Find|Search|Locate) (the word |every |){pattern}{where}",
            "!(Find|Show|List|Print) (all|the) lines (with|that have|about) {pattern}{where}",
            "!(Tell me|Find out|Say) where {pattern} is{where}",
            "(Which|What) lines (have|contain|mention) {pattern}{where}",
            "(Where|In which file) (is|does it say|stands) {pattern}{where}",
            "(Is there|Do we have) (the word |){pattern}{where}",
        ),
        ("Please find {pattern}{where}", "Can you search for {pattern}{where}"),
    )
    path, line = drawn_path(rng, "train"), rng.randint(1, 99)
    arguments = {"pattern": pattern, **extra}
    told = f"It is in {path}, line {line}."
    question = text.format(pattern=pattern, where=where)
    result = f"{path}:{line}: {pattern}"
    return Request("search_in_files", f"{form}{index}", question, arguments, result, told)


def _write_file(rng: random.Random, split: Split) -> Request:
    path = drawn_path(rng, split)
    content = rng.choice(_TEXTS)
    if rng.random() < 0.3:
        content += f" {rng.randint(1, 99)}"
    elif split == "train" and rng.random() < 0.5:
        content = " ".join(lesson_word(rng, _SEARCHED) for _ in range(rng.randint(1, 3)))
    index, text = _wordings(
        rng,
        split,
        (
            '!(Write|Put|Save|Store) "{content}" (into|in|to) (the file |){path}',
            '!(Make|Create|Write) (a file|the file|a new file) {path} with the text "{content}"',
            '!(Make|Create|Write) {path} with "{content}" in it',
            '!(Save|Store) the text "{content}" as {path}',
            '(The file |){path} (should|must|has to) (say|be|have) "{content}"',
            'I (need|would like|wish) a (new |)file {path} with "{content}"',
        ),
        ('Please write "{content}" into {path}', 'I want a file {path} that says "{content}"'),
    )
    question = text.format(content=content, path=path)
    result = f"{path} was written, {len(content)} bytes."
    arguments = {"path": path, "content": content}
    return Request("write_file", index, question, arguments, result, f"{path} is written.")


def _run_command(rng: random.Random, split: Split) -> Request:
    command = _lesson_command(rng) if split == "train" else _of_split(_COMMANDS, rng, split)
    index, text = _wordings(
        rng,
        split,
        (
            "!Run {command}",
            "!(Execute|Start|Call|Launch) {command}",
            "!(Run|Execute|Start|Call|Try) the command {command}",
            "!(Type|Enter) {command} (in|into) (the|a) shell",
            "!(Use|Take) the shell (for|to run) {command}",
            "!(Tell|Show) me what {command} (says|prints|gives)",
            "What does {command} (say|print|give)( here|)",
            "I (need|would like) to (run|see) (the output of |){command}",
        ),
        ("Please run {command}", "I want you to run {command}"),
    )
    result, told = "ok\n[exit status 0]", "It ended with exit status 0."
    question = text.format(command=command)
    return Request("run_command", index, question, {"command": command}, result, told)


def _lesson_command(rng: random.Random) -> str:
    """Programs of any name, so that what comes after "run" is copied and not known by heart."""
    while True:
        program, *rest = _of_split(_COMMANDS, rng, "train").split(" ", 1)
        joined = rng.choice(_PIECES) + rng.choice(("", "", "-")) + rng.choice(_PIECES)
        program = rng.choice((program, coined(rng), joined))
        command = " ".join([program, *(rest if rng.random() < 0.5 else [coined(rng)])])
        if in_split(command, "train"):
            return command


REQUESTS: Mapping[str, Callable[[random.Random, Split], Request]] = {
    "read_file": _read_file,
    "list_folder": _list_folder,
    "search_in_files": _search,
    "calculator": _calculator,
    "write_file": _write_file,
    "run_command": _run_command,
}

TAUGHT = (*REQUESTS, "list_folder", "search_in_files", "run_command")
"""Tools as often as lessons ask for them: what these three are asked with is harder to copy."""
