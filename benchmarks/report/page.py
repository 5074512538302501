"""The report as one page of Markdown that fits an issue: verdict, tables, messages."""

from collections.abc import Iterator
from typing import Any

from benchmarks.report import tables, verdict
from benchmarks.report.verdict import rows, rows_of

MOST_CHARACTERS = 60_000
"""GitHub takes 65,536 in an issue."""
MOST_MESSAGES = 12

Found = dict[str, Any]


def markdown(found: Found) -> str:
    """The page."""
    blocks = [
        *_head(found),
        *tables.speeds(found),
        *tables.kernels(found),
        *tables.compiling(found),
        *tables.nano(found),
        *tables.ranks(found),
        *tables.decoding(found),
        *tables.reading(found),
        *tables.streaming(found),
        *_messages(found),
    ]
    text = "\n".join(blocks) + "\n"
    if len(text) <= MOST_CHARACTERS:
        return text
    return text[:MOST_CHARACTERS] + "\n\n(cut here; report.json has all of it)\n"


def _head(found: Found) -> Iterator[str]:
    machine = next(iter(rows(found, "machine")), None)
    if machine is None:
        yield from ("# dsv4-mlx on an unknown machine", "", verdict.sentence(found), "")
        return
    yield from (f"# dsv4-mlx on {machine['device']} ({machine['backend']})", "")
    yield from (verdict.sentence(found), "")
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield f"- {machine['date']}, `{found['command']}`, commit {machine['commit'] or 'unknown'}"
    yield f"- {machine['machine']}; {machine['system']}; {versions}"
    if "macos" in machine:
        memory = f"{(machine['memory_bytes'] or 0) / 2**30:.0f} GiB"
        yield (
            f"- macOS {machine['macos']} ({machine['macos_build']}), {machine['chip']}, {memory}; "
            f"iogpu.wired_limit_mb {machine['wired_limit_mb']}; power mode "
            f"{machine['power_mode']}, {machine['power_source']}"
        )
    info = ", ".join(f"{name} {value}" for name, value in machine["device_info"].items())
    yield f"- device: {info}"
    variables = [f"{name}={value}" for name, value in machine["variables"].items()]
    yield f"- variables: {', '.join(variables) or 'none of MLX_ and DSV4_ is set'}"
    if machine["references"] and machine["backend"] != "cpu":
        yield f"- not written for this backend yet: {', '.join(machine['references'])}"
    yield ""


def _messages(found: Found) -> Iterator[str]:
    """What failed, in its own words."""
    said = [*_each_message(found)]
    if said:
        yield from ("## Messages", "")
    for where, text in said[:MOST_MESSAGES]:
        fenced = text.replace("```", "'''")
        yield from (f"### {where}", "```", fenced, "```", "")
    if len(said) > MOST_MESSAGES:
        yield f"{len(said) - MOST_MESSAGES} more messages are in report.json."
    if said:
        yield "The texts of kernels that failed to compile or to end lie in report-texts/."


def _each_message(found: Found) -> Iterator[tuple[str, str]]:
    for part in found["parts"]:
        for row in rows_of(part["rows"], "failed"):
            yield row["what"], row["message"]
        if part["message"]:
            at = f", at “{part['at']}”" if part["at"] else ""
            yield f"{part['name']} ({part['state']}{at})", part["message"]
