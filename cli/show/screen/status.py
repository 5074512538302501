"""The status line: what a conversation stands at, in one line of any width.

Every part has a rank; where the line is too narrow, the parts of the highest rank go first, so that
what is being done, the thinking level and the room that is left stay longest.
"""

from dataclasses import dataclass

from cli.safe import harmless
from cli.show.surface import Status

_SEPARATOR = " · "
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_CELLS = 8

RoleTexts = list[tuple[str, str]]
"""Roles of the theme, each with its text."""


@dataclass(frozen=True)
class _Part:
    rank: int
    role: str
    text: str
    of_meter: bool = False
    """Belongs to its neighbours of the same kind: a space between them, no separator."""


def status_line(status: Status, width: int, *, blocks: bool = True) -> RoleTexts:
    """`status` in at most `width` columns; `blocks` draws the meter with block characters."""
    parts = _parts(status, blocks)
    while len(parts) > 1 and _width(_joined(parts)) > width:
        parts.remove(max(parts, key=lambda part: part.rank))
    return _cut(_joined(parts), width)


def _parts(status: Status, blocks: bool) -> list[_Part]:
    """In the order of the line."""
    parts = [
        _Part(0, "status.busy", status.busy),
        _Part(1, "status", f"think {status.mode}" if status.mode else ""),
        _Part(3, "status", status.model),
        *_meter(status, blocks),
    ]
    if status.tokens_per_s is not None:
        parts.append(_Part(4, "status", f"{status.tokens_per_s:,.1f} tok/s"))
    if status.tokens_per_pass is not None:
        parts.append(_Part(5, "status", f"{status.tokens_per_pass:.1f} tok/pass"))
    if status.expert_hits is not None:
        found = f"experts {status.expert_hits:.0%} hit, waited {status.waited_s:.1f} s"
        parts.append(_Part(5, "status", found))
    if status.first_token_s is not None:
        parts.append(_Part(6, "status", f"first {status.first_token_s:.2f} s"))
    wired = f", {byte_count(status.wired_bytes)} wired" if status.wired_bytes else ""
    parts.append(_Part(7, "status", (status.backend or "") + wired))
    return [part for part in parts if part.text]


def _meter(status: Status, blocks: bool) -> list[_Part]:
    """How full the context is, as a bar, as numbers, and what the memory goes to."""
    if status.used_tokens is None:
        return []
    numbers = f"{status.used_tokens:,}"
    parts = []
    if status.context_tokens:
        numbers += f"/{_round_number(status.context_tokens)}"
        fraction = status.used_tokens / status.context_tokens
        parts.append(_Part(5, "meter", meter_bar(fraction, blocks=blocks), of_meter=True))
    parts.append(_Part(2, "status", numbers, of_meter=True))
    kinds = {
        "window": status.window_bytes,
        "compressed": status.compressed_bytes,
        "index": status.index_bytes,
    }
    if any(kinds.values()):
        split = ", ".join(f"{kind} {byte_count(size)}" for kind, size in kinds.items())
        parts.append(_Part(8, "status", f"({split})", of_meter=True))
    return parts


def meter_bar(fraction: float, *, blocks: bool = True) -> str:
    """A bar of eight cells; anything above nothing shows."""
    eighths = min(8 * _BAR_CELLS, max(round(fraction * 8 * _BAR_CELLS), 1 if fraction > 0 else 0))
    full, rest = divmod(eighths, 8)
    if not blocks:
        full = min(_BAR_CELLS, full + (rest > 0))
        return "[" + "#" * full + "-" * (_BAR_CELLS - full) + "]"
    bar = "█" * full + (_EIGHTHS[rest] if rest else "")
    return "▕" + bar.ljust(_BAR_CELLS) + "▏"


def byte_count(size: int) -> str:
    """Bytes for people: 512 B, 3.1 KB, 17 MB, 3.43 GB."""
    value, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    if unit == "B":
        return f"{size:,} B"
    return f"{value:.{2 if value < 10 and unit == 'GB' else 1 if value < 10 else 0}f} {unit}"


def _round_number(tokens: int) -> str:
    """Context lengths are powers of two: 131072 is 128K, 1048576 is 1M."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if tokens % size == 0:
            return f"{tokens // size:,}{unit}"
    return f"{tokens:,}"


def _joined(parts: list[_Part]) -> RoleTexts:
    fragments: RoleTexts = []
    for before, part in zip([None, *parts], parts, strict=False):
        if before is not None:
            joined = before.of_meter and part.of_meter
            fragments.append(("status", " " if joined else _SEPARATOR))
        fragments.append((part.role, harmless(part.text).replace("\n", " ").replace("\t", " ")))
    return fragments


def _width(fragments: RoleTexts) -> int:
    from prompt_toolkit.utils import get_cwidth

    return sum(get_cwidth(text) for _, text in fragments)


def _cut(fragments: RoleTexts, width: int) -> RoleTexts:
    """The one part that is left may still be too long."""
    if _width(fragments) <= width:
        return fragments
    role, text = fragments[0]
    while text and _width([(role, text + "…")]) > width:
        text = text[:-1]
    return [(role, text + "…")] if width > 0 else []
