"""`GET /metrics`: counters and gauges as Prometheus reads them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cli.serve.records import Records
from cli.serve.served_model import STATES, ServedModel

if TYPE_CHECKING:
    from dsv4_mlx.serving.service import Service

_PREFIX = "dsv4_"
_Sample = tuple[dict[str, str], float]


@dataclass(frozen=True)
class CacheFigures:
    """What is held of earlier requests, on the model's thread."""

    memory_bytes: int = 0
    places: int = 0
    evicted: int = 0
    disk_bytes: int = 0
    disk_files: int = 0
    disk_written_bytes: int = 0
    reserved_bytes: int = 0
    """Set aside for requests on their way."""


def cache_figures(service: "Service") -> CacheFigures:
    """Count them; for the model's thread."""
    timelines = service.timelines
    tier, held = timelines.tier, CacheFigures(timelines.nbytes, len(timelines), timelines.evicted)
    held = replace(held, reserved_bytes=service.scheduler.load.reserved_bytes)
    if tier is None:
        return held
    written = tier.hourly.total
    return replace(held, disk_bytes=tier.nbytes, disk_files=len(tier), disk_written_bytes=written)


def metrics_text(model: ServedModel, records: Records, cache: CacheFigures) -> str:
    """All of it, in the text format."""
    return "".join(_lines(model, records, cache))


def _lines(model: ServedModel, records: Records, cache: CacheFigures) -> Iterator[str]:
    state, totals = model.state, records.totals
    states = [({"state": str(one)}, float(one == state)) for one in STATES]
    yield from _metric("model_state", "gauge", "The model's state, 1 for the one it is in.", states)
    if state == "ready":
        load = model.running.scheduler.load
        requests = {"waiting": load.requests_waiting, "running": load.requests_running}
        yield from _by_state("requests", "Requests; one waits until all its answers run.", requests)
        answers = {"waiting": load.waiting, "reading": load.reading, "answering": load.answering}
        yield from _by_state("answers", "Answers that requests ask for.", answers)
        yield from _one(
            "tokens_to_read", "gauge", "Tokens of prompts not read.", load.tokens_to_read
        )
        yield from _one("reserved_bytes", "gauge", "Memory set aside.", cache.reserved_bytes)
        yield from _one("silence_seconds", "gauge", "Since a sign of life.", model.silence_s)
    yield from _one("open_requests", "gauge", "Requests that are not answered.", len(records.open))
    ended = [({"dialect": one, "end": end}, float(n)) for (one, end), n in totals.requests.items()]
    yield from _metric("requests_total", "counter", "Requests that ended.", sorted(ended, key=str))
    for name, what, value in (
        ("prompt_tokens_total", "Tokens of prompts.", totals.prompt),
        ("cached_tokens_total", "Of these the ones that needed no reading.", totals.cached),
        ("read_tokens_total", "And the ones that were read.", totals.read),
        ("generated_tokens_total", "Tokens of answers.", totals.generated),
        ("prefill_seconds_total", "Spent on reading.", totals.prefill_s),
        ("decode_seconds_total", "Spent on answering.", totals.decode_s),
        ("evicted_places_total", "Places that were let go of.", cache.evicted),
        ("disk_written_bytes_total", "Bytes of cache files written.", cache.disk_written_bytes),
    ):
        yield from _one(name, "counter", what, value)
    for name, what, value in (
        ("cache_bytes", "Memory held of earlier requests.", cache.memory_bytes),
        ("cache_places", "Places to go on from.", cache.places),
        ("disk_bytes", "Bytes of cache files.", cache.disk_bytes),
        ("disk_files", "Cache files.", cache.disk_files),
    ):
        yield from _one(name, "gauge", what, value)


def _one(name: str, kind: str, what: str, value: float) -> Iterator[str]:
    yield from _metric(name, kind, what, [({}, value)])


def _by_state(name: str, what: str, counts: Mapping[str, int]) -> Iterator[str]:
    samples = [({"state": state}, float(count)) for state, count in counts.items()]
    yield from _metric(name, "gauge", what, samples)


def _metric(name: str, kind: str, what: str, samples: Iterable[_Sample]) -> Iterator[str]:
    full = _PREFIX + name
    yield f"# HELP {full} {what}\n# TYPE {full} {kind}\n"
    for labels, value in samples:
        told = ",".join(f'{key}="{one}"' for key, one in labels.items())
        yield f"{full}{{{told}}} {value:g}\n" if told else f"{full} {value:.17g}\n"
