"""The pages for people name paths that exist, modules that import and commands that parse."""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import options as chat_options
from cli.environment import Environment
from cli.serve import options as serve_options
from convert import options as convert_options

ROOT = Path(__file__).parents[2]
# Records of what was, not of what is.
HISTORY = {"LOG.md", "CHANGELOG.md"}
PAGES = [
    page
    for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")))
    if page.name not in HISTORY
]
FOLDERS = "dsv4_mlx|metal_kernels|convert|cli|tests|benchmarks|docs"
# The page about a new kernel makes this one.
IMAGINED = ("metal_kernels/scale_rows", "tests/kernels/test_scale_rows.py")
# Options of other programs that our pages name.
FOREIGN = {"--chat-template-args", "--over"}
CHAT = chat_options.help_text(Environment())
SERVE = serve_options.serve_help(Environment())
CONVERT = {
    "": convert_options.parser().format_help(),
    "verify": convert_options.verify_parser().format_help(),
    "inspect": convert_options.inspect_parser().format_help(),
    "calibrate": convert_options.calibrate_parser().format_help(),
    "fetch": convert_options.fetch_parser().format_help(),
    "join": convert_options.join_parser().format_help(),
}


def paths(text: str) -> Iterator[str]:
    """Names of files and folders, wherever they stand: with a slash, or as a link's target."""
    yield from re.findall(rf"(?<![\w/.~$-])((?:{FOLDERS}|\.ci|\.github)/[\w./-]*\w)", text)


def links(text: str) -> Iterator[str]:
    """Targets of links inside the project, without a place in the page."""
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target and (name := target.partition("#")[0]):
            yield name


def dotted(text: str) -> Iterator[str]:
    """Names of modules, or of values in them."""
    yield from re.findall(rf"(?<![\w./`-])`?((?:{FOLDERS})(?:\.[A-Za-z_]\w*)+)", text)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in code: our programs, `python -m`, make; options in the text."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^ {4}(\S.*)", text, re.MULTILINE)
    lines = [line for line in lines if not line.lstrip().startswith("-")]  # a help text
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    for line in lines:
        for command in re.split(r"\s(?:#|\||&&)(?:\s|$)", line):
            name = command.strip().removeprefix(".venv/bin/")
            if re.match(r"(?:dsv4-chat|dsv4-convert|make|python -m [\w.]+)(?: |$)|--\w", name):
                yield shlex.split(name)


def complaint(words: list[str]) -> str:
    """What is wrong with a command; nothing for one that would be understood."""
    match words:
        case ["make", *arguments]:
            targets = {word for word in arguments if "=" not in word}
            return f"make has no {targets - made()}" if targets - made() else ""
        case ["dsv4-chat", "serve", *arguments]:
            return unknown(arguments, SERVE)
        case ["dsv4-chat", *arguments]:
            return unknown(arguments, CHAT)
        case ["dsv4-convert", *arguments] | ["python", "-m", "convert", *arguments]:
            name = arguments[0] if arguments and arguments[0] in CONVERT else ""
            return unknown(arguments, CONVERT[name])
        case ["python", "-m", module, *arguments]:
            found = importlib.util.find_spec(module)
            if found is None:
                return f"there is no module {module}"
            file = Path(str(found.origin))
            source = file.with_name(file.name.replace("__init__", "__main__")).read_text("utf-8")
            ours = [word for word in arguments if word.startswith("--") and "mlx_lm" not in module]
            return "".join(f"no {word}" for word in ours if f'"{word}"' not in source)
        case arguments:
            if arguments[0] in FOREIGN:
                return ""
            answers = [unknown(arguments, helped) for helped in (CHAT, SERVE, *CONVERT.values())]
            return min(answers, key=len)


def unknown(arguments: list[str], helped: str) -> str:
    """The first option that a help text lacks, or a value that is none of its choices."""
    known = dict(re.findall(r"(?<![\w-])(--?[a-z][\w-]*)(?:[ =]\{([^}]+)\})?", helped))
    for word, value in zip(arguments, [*arguments[1:], ""][: len(arguments)], strict=True):
        if not word.startswith("-"):
            continue
        if word not in known:
            return f"there is no option {word}"
        choices = set(known[word].split(",")) if known[word] else set()
        if choices and value and not value.isupper() and not set(value.split("|")) <= choices:
            return f"{word} takes none of {value}"
    return ""


def made() -> set[str]:
    """The targets of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a value of one."""
    try:
        if importlib.util.find_spec(name):
            return True
    except ModuleNotFoundError:
        pass
    module, _, value = name.rpartition(".")
    return bool(module) and hasattr(importlib.import_module(module), value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {name for name in paths(text) if not name.startswith(IMAGINED)}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert [name for name in links(text) if not (page.parent / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_and_value_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    imagined = tuple(name.replace("/", ".") for name in IMAGINED)
    names = {name for name in dotted(text) if not name.startswith(imagined)}
    files = {name for name in names if name.endswith((".md", ".py", ".toml"))}
    assert [name for name in sorted(names - files) if not resolves(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path) -> None:
    said = [(words, complaint(words)) for words in commands(page.read_text(encoding="utf-8"))]
    assert [(words, wrong) for words, wrong in said if wrong] == []


def test_the_reader_of_pages_reads_something() -> None:
    text = (
        "See `tests/no.py`, [it](docs/no.md) and `dsv4_mlx.nothing`.\n\n```\nmake all # so\n```\n"
    )
    assert list(paths(text)) == ["tests/no.py", "docs/no.md"]
    assert list(links(text)) == ["docs/no.md"]
    assert list(dotted(text)) == ["dsv4_mlx.nothing"] and not resolves("dsv4_mlx.nothing")
    assert list(commands(text)) == [["make", "all"]]


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "make test everything",
        "dsv4-chat --modell PATH",
        "dsv4-chat --kv fp4",
        "dsv4-chat serve --prot 8000",
        "python -m convert verify --recipe q4",
        "dsv4-convert SRC DST --speed 9",
        "python -m benchmarks.nothing",
        "python -m benchmarks.launches --nothing",
        "--nothing",
    ],
)
def test_a_command_that_means_nothing_is_noticed(command: str) -> None:
    (words,) = commands(f"`{command}`")
    assert complaint(words)
