"""What a report amounts to, in words: what is wrong, and what the times say."""

from collections.abc import Iterator
from typing import Any

Rows = list[dict[str, Any]]

_WORDS = {"failed": "failed", "hung": "did not end", "interrupted": "was interrupted"}
_HOW = {
    "tf32": " with TF32",
    "replayed": " by replayed graphs (`dsv4-chat --no-compile` builds each token anew)",
}
NEAR_TIE = 2.0
"""Two logits may each be off by the largest difference, in opposite directions."""
FAR_OFF = 0.1
"""Logits that differ by more of their own deviation than this are wrong, whatever is chosen."""


def rows_of(rows: Rows, kind: str) -> Rows:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def parts(found: dict[str, Any], kind: str = "") -> Rows:
    """The parts of a report, or those whose name begins with a word."""
    return [part for part in found["parts"] if kind in ("", part["name"].partition(":")[0])]


def rows(found: dict[str, Any], kind: str) -> Rows:
    """The rows of one kind in all parts."""
    return [row for part in found["parts"] for row in rows_of(part["rows"], kind)]


def sound(found: dict[str, Any]) -> list[str]:
    """Kernels that were compared to the end and agree."""
    return [
        part["name"].partition(":")[2]
        for part in parts(found, "kernel")
        if part["state"] == "done"
        and rows_of(part["rows"], "case")
        and not rows_of(part["rows"], "failed")
    ]


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong, a phrase each; empty where everything that was run is right."""
    wrong = [*_of_kernels(found), *_of_nano(found)]
    for part in found["parts"]:
        if part["state"] in _WORDS and part["name"].partition(":")[0] != "kernel":
            wrong.append(f"{part['name']} {_how_it_ended(part)}")
        if part["name"].partition(":")[0] not in ("kernel", "again"):
            wrong += [f"{row['what']} failed" for row in rows_of(part["rows"], "failed")]
    return wrong


def _how_it_ended(part: dict[str, Any]) -> str:
    at = f" at “{part['at']}”" if part["at"] else ""
    reason = part["message"].partition("\n")[0]
    return f"{_WORDS[part['state']]}{at}" + (f" ({reason})" if reason else "")


def _of_kernels(found: dict[str, Any]) -> Iterator[str]:
    for part in parts(found, "kernel"):
        name = part["name"].partition(":")[2]
        failed = rows_of(part["rows"], "failed")
        if failed:
            known = len(failed) + len(rows_of(part["rows"], "case"))
            yield f"{name} is wrong in {len(failed)} of {known} cases"
        if part["state"] in _WORDS:
            yield f"{name} {_how_it_ended(part)}"


def _without_them(found: dict[str, Any]) -> str:
    """The command line that leaves out the kernels that are wrong; "" where none is."""
    names = [
        part["name"].partition(":")[2]
        for part in parts(found, "kernel")
        if part["state"] in ("failed", "hung") or rows_of(part["rows"], "failed")
    ]
    backend = next((row["backend"] for row in rows(found, "machine")), "cpu")
    if not names or backend == "cpu":
        return ""
    left_out = ",".join(f"-{name}" for name in names)
    return f" `dsv4-chat --kernels {backend},{left_out}` runs their references instead, slower."


def _of_nano(found: dict[str, Any]) -> Iterator[str]:
    for part in parts(found, "nano"):
        for row in rows_of(part["rows"], "nano"):
            how = _HOW.get(part["name"].partition(":")[2], "")
            if is_far_off(row):
                yield f"nano's logits differ from the CPU's{how}"
            elif not is_near_tie(row):
                yield f"nano chooses other tokens than on the CPU{how}"


def is_far_off(row: dict[str, Any]) -> bool:
    """Whether nano's logits are too far from the CPU's to be a matter of rounding."""
    return not row["largest_difference"] <= FAR_OFF * row["deviation"]


def is_near_tie(row: dict[str, Any]) -> bool:
    """Whether the tokens are the CPU's, or part where logits as far apart as these may part."""
    if row["differs_at"] is None:
        return True
    return bool(row["margin"] <= NEAR_TIE * row["difference_there"])


def speed(found: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A measured speed of the machine, without TF32."""
    named = [
        row
        for part in parts(found, "speeds")
        if "tf32" not in part["name"]
        for row in rows_of(part["rows"], "speed")
        if row["name"] == name
    ]
    return named[0] if named else None


def floor_s(found: dict[str, Any], nbytes: float = 0, flops: float = 0) -> float | None:
    """Seconds that so much work takes at the speeds measured here; None where they are unknown."""
    parts_s = []
    for work, name, rate, unit in (
        (nbytes, "matvec", "gb_per_s", 1e9),
        (flops, "matmul float32", "tflop_per_s", 1e12),
    ):
        if work:
            if (known := speed(found, name)) is None:
                return None
            parts_s.append(work / (known[rate] * unit))
    return max(parts_s, default=0.0)


def sentence(found: dict[str, Any]) -> str:
    """The verdict: what is wrong or that nothing is, then what limits decoding."""
    wrong = problems(found)
    cases, kernels = rows(found, "case"), sound(found)
    if wrong:
        text = f"**Something is wrong: {'; '.join(wrong[:6])}.**"
        if len(wrong) > 6:
            text += f" {len(wrong) - 6} more below."
        text += _without_them(found)
    else:
        text = f"Everything that was run is right: {len(kernels)} kernels in {len(cases)} cases"
        text += ", and nano answers as on the CPU." if rows(found, "nano") else "."
    return " ".join([text, *_of_speed(found)])


def _of_speed(found: dict[str, Any]) -> Iterator[str]:
    decoded = {",".join(row["choices"]): row for row in rows(found, "decode")}
    best = decoded.get("ours,wired", decoded.get("ours,unwired"))
    if best is None:
        return
    nbytes = rows(found, "floor")[0]["bytes"]
    if floor := floor_s(found, nbytes):
        times = best["session_s"] / floor
        yield (
            f"A token of {best['layers']} layers takes {times:.1f} times as long as reading its "
            f"weights and cache would{_limit(found, best)}."
        )
    for ours, other, what in (
        ("ours,unwired", "default,unwired", "our command buffers instead of MLX's"),
        ("ours,wired", "ours,unwired", "wired memory instead of unwired"),
    ):
        if ours in decoded and other in decoded:
            change = 100 * (decoded[ours]["session_s"] / decoded[other]["session_s"] - 1)
            yield f"A token with {what}: {change:+.0f} % time."
    if best.get("replayed_s"):
        change = 100 * (best["replayed_s"] / best["session_s"] - 1)
        yield f"A token with a replayed graph instead of one built anew: {change:+.0f} % time."


def _limit(found: dict[str, Any], row: dict[str, Any]) -> str:
    if rows(found, "machine")[0]["backend"] == "cpu":
        return ""
    if row["build_s"] + row["encode_s"] > row["wait_s"]:
        return "; the host is slower than the GPU"
    return "; the GPU is slower than the host"
