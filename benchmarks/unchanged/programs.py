"""The commands of a checkout: what they say, and the files that they write."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from benchmarks.unchanged.checkouts import Checkout
from benchmarks.unchanged.probes.addresses import digest

Facts = dict[str, Any]
CHAT, CONVERT, TRAIN = ("-m", "cli"), ("-m", "convert"), ("-m", "dsv4_mlx.training.nano")
RECIPES = ("native", "q8", "q6", "q4", "q3", "q2")

HELPS = {
    "dsv4-chat --help": (*CHAT, "--help"),
    "dsv4-chat --version": (*CHAT, "--version"),
    "dsv4-chat config": (*CHAT, "config"),
    "dsv4-convert --help": (*CONVERT, "--help"),
    "dsv4-convert fetch --help": (*CONVERT, "fetch", "--help"),
    "dsv4-convert verify --help": (*CONVERT, "verify", "--help"),
    "dsv4-convert inspect --help": (*CONVERT, "inspect", "--help"),
    "dsv4-convert calibrate --help": (*CONVERT, "calibrate", "--help"),
    "training.nano --help": (*TRAIN, "--help"),
    "mlx_lm without a command": ("-m", "dsv4_mlx.mlx_lm"),
}
REFUSED = {
    "an unknown option": (*CHAT, "--bogus"),
    "a word": (*CHAT, "word"),
    "an unknown backend": (*CHAT, "--backend", "tpu", "-p", "Hi"),
    "an absent backend": (*CHAT, "--backend", "metal", "-p", "Hi"),
    "an absent model": (*CHAT, "--model", "/absent", "-p", "Hi"),
    "an absent model, JSON": (*CHAT, "--model", "/absent", "-p", "Hi", "--json"),
    "nothing to continue": (*CHAT, "--continue", "-p", "Hi"),
    "an empty message": (*CHAT, "-p", ""),
    "an absent file": (*CHAT, "-p", "Hi", "@/absent"),
    "an absent source": (*CONVERT, "/absent", "/absent-too"),
    "an unknown recipe": (*CONVERT, "MODEL", "/absent-too", "--recipe", "q5"),
    "an absent conversion": (*CONVERT, "verify", "/absent"),
}
ASKED = {
    "as text": ("-p", "What is the capital of France?"),
    "as JSON": ("-p", "What is the capital of France?", "--json"),
    "without thinking": ("-p", "Hello", "--think", "none", "--json"),
    "sampled": ("-p", "Tell me something.", "--temp", "0.9", "--seed", "3", "--max-tokens", "40"),
    "bf16 rows": ("-p", "Hello", "--kv", "bf16", "--no-stream", "--json"),
    "within a budget": ("-p", "Hello", "--budget", "4", "--stop", "a", "--json"),
    "of a file": ("-p", "What is this?", "@LICENSE", "--json", "--max-tokens", "12"),
    "exactly": ("-p", "Hello", "--raw", "--reasoning", "hide", "--system", "You are kind."),
}
TYPED = (
    "/help",
    "What is the capital of France?",
    "/think",
    "/think none",
    "/temp 0.5",
    "/seed 7",
    "Hello",
    "/context",
    "/undo",
    "/fork other",
    "Who are you?",
    "/branches",
    "/retry",
    "/edit Hello again",
    "/save proof",
    "/export EXPORT.md",
    "/export EXPORT.json",
    "/export EXPORT.html",
    "/search capital",
    "/system Be brief.",
    "/sessions",
    "/copy code",
    "/compact",
    "/model",
    "/stop off",
    "/budget 9",
    "/max 8",
    "/new",
    "Hello",
    "/nonsense",
    "/quit",
)
_SECONDS = re.compile(r"\d+(\.\d+)? ?(ms|s|tok/s|tokens/s|tokens-per-sec|GB|GiB|MiB|MB)\b")
_IDS = re.compile(r"\d{8}-\d{6}-\d{3}-[a-z0-9]{6}")
_FREE = re.compile(r'"disk_free": \d+')
_OF_THIS_RUN = ("timing", "at", "crc")
"""Keys of records; the checksum of a line covers its time."""
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d:\d\d|Z)?")


def texts(checkout: Checkout, model: str) -> Facts:
    """Help texts, refusals, and the page of the terminal program."""
    facts: Facts = {name: checkout.command(*words).text for name, words in HELPS.items()}
    for name, words in REFUSED.items():
        given = [model if word == "MODEL" else word for word in words]
        facts[name] = _timeless(checkout.command(*given).text)
    return facts | checkout.probe("pages", "manual")


def answers(checkout: Checkout, model: str) -> Facts:
    """Answers of nano on stdout and stderr, and through mlx-lm."""
    facts: Facts = {}
    for name, words in ASKED.items():
        done = checkout.command(*CHAT, "--model", model, *words)
        facts[name] = _timeless(done.text)
    generate = ("-m", "dsv4_mlx.mlx_lm", "generate", "--model", model, "--prompt", "Hello")
    said = checkout.command(*generate, "--max-tokens", "12", "--temp", "0").stdout
    facts["mlx-lm"] = said[: said.rfind("=====")]
    return facts


def begin_conversation(before: Checkout, home: Path, model: str) -> None:
    """A home folder with one conversation in it, its cache file and a long shared beginning."""
    shared = ("-p", "What is this?", "@LICENSE", "--max-tokens", "4")
    before.command(*CHAT, "--model", model, *shared, DSV4_HOME=str(home))
    lines = ["What is the capital of France?", "Hello", "/save proof", "/quit"]
    words = (*CHAT, "--plain", "--model", model, "--temp", "0")
    before.talk(words, lines, DSV4_HOME=str(home))


def conversations(checkout: Checkout, home: Path, model: str) -> Facts:
    """What was kept goes on; what is typed anew says, keeps and exports the same."""
    own = {"DSV4_HOME": str(checkout.scratch / "kept home")}
    shutil.copytree(home, own["DSV4_HOME"])
    start = (*CHAT, "--model", model)
    go_on = checkout.command(*start, "--resume", "proof", "-p", "Who are you?", "--json", **own)
    again = checkout.command(*start, *ASKED["of a file"], **own)
    facts: Facts = {"kept, gone on with": _timeless(go_on.text)}
    facts["kept, its file"] = _logs(Path(own["DSV4_HOME"]))
    facts["kept, a shared beginning"] = _timeless(again.text)
    anew = {"DSV4_HOME": str(checkout.scratch / "new home")}
    exported = checkout.scratch / "exported"
    lines = [line.replace("EXPORT", str(exported)) for line in TYPED]
    facts["typed"] = _timeless(checkout.talk((*start[:2], "--plain", *start[2:]), lines, **anew))
    facts["typed, its files"] = _logs(Path(anew["DSV4_HOME"]))
    for ending in ("md", "json", "html"):
        facts[f"exported {ending}"] = exported.with_suffix(f".{ending}").read_text(encoding="utf-8")
    return facts


def conversions(checkout: Checkout, model: str) -> Facts:
    """Digests of every file of every recipe, and what was said on the way."""
    text = checkout.scratch / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, 1984 times. " * 12)
    measured = checkout.scratch / "importance.safetensors"
    said = checkout.command(*CONVERT, "calibrate", model, text, "-o", measured, "--json")
    facts: Facts = {"calibrate": _timeless(said.text), **_content(measured, checkout)}
    for recipe in (*RECIPES, "q2 by importance"):
        out = checkout.scratch / recipe
        options = ["--recipe", recipe.split()[0], "--json"]
        options += ["--importance", str(measured)] if recipe.endswith("importance") else []
        for name, words in (("planned", ["--dry-run"]), ("converted", [])):
            done = checkout.command(*CONVERT, model, out, *options, *words)
            facts[f"{recipe}, {name}"] = _without_progress(_timeless(done.text))
        verified = checkout.command(*CONVERT, "verify", out, "--against", model, "--json")
        facts[f"{recipe}, verified"] = _timeless(verified.text)
        inspected = checkout.command(*CONVERT, "inspect", out, "--json")
        facts[f"{recipe}, inspected"] = inspected.text
        for path in sorted(out.rglob("*")):
            facts |= {f"{recipe}, {name}": fact for name, fact in _content(path, checkout).items()}
    return facts


def training(checkout: Checkout) -> Facts:
    """Files after one step of training."""
    out = checkout.scratch / "trained"
    facts: Facts = {"said": checkout.command(*TRAIN, out, "--steps", "1").text}
    for path in sorted(out.iterdir()):
        facts |= _content(path, checkout)
    return facts


def _content(path: Path, checkout: Checkout) -> Facts:
    """A file as a fact: JSON with its keys, so that a difference is named; else a digest."""
    if path.suffix == ".json" and path.stat().st_size < 100_000:
        return {path.name: checkout.plain(path.read_text(encoding="utf-8"))}
    return {path.name: digest(path.read_bytes())} if path.is_file() else {}


def _logs(home: Path) -> str:
    """The lines of all conversations in a home folder, without what is of this run alone."""
    logs = sorted((home / "sessions").glob("*.jsonl"))
    return _timeless("\n".join(path.read_text(encoding="utf-8") for path in logs))


def _timeless(text: str) -> str:
    """`text` without seconds, dates and ids."""
    lines = [_record(line) for line in text.splitlines()]
    for pattern in (_SECONDS, _IDS, _TIMES, _FREE):
        lines = [pattern.sub("…", line) for line in lines]
    return "\n".join(lines)


def _without_progress(text: str) -> str:
    """Matrices are converted several at a time and may be done in another order."""
    return "\n".join(line for line in text.splitlines() if '"event": "progress"' not in line)


def _record(line: str) -> str:
    """A line of JSON without its times."""
    if not line.startswith('{"'):
        return line
    try:
        record = json.loads(line)
    except ValueError:
        return line
    for key in _OF_THIS_RUN:
        record.pop(key, None)
    return json.dumps(record, ensure_ascii=False)
