"""What a conversion calls its source and its result: fingerprints, and where they are kept."""

from collections.abc import Mapping
from typing import Any

from convert.plan import ConversionPlan
from dsv4_mlx.release.token_map import TokenMap
from dsv4_mlx.weights.draft_marks import DRAFT_MARK
from dsv4_mlx.weights.fingerprint import (
    Sampled,
    fingerprint,
    fingerprint_with,
    samples_of,
    timeline_fingerprint,
)
from dsv4_mlx.weights.parameters import ParameterPlan


def source_fingerprint(plan: ConversionPlan, token_map: TokenMap | None) -> str:
    """That of all weights of the source."""
    return fingerprint(plan.source, plan.parameters, token_map)


def at_start(plan: ConversionPlan, token_map: TokenMap | None) -> dict[str, Any]:
    """What the journal notes while all of the source is there."""
    found: dict[str, Any] = {}
    if plan.exact:
        found["fingerprint"] = source_fingerprint(plan, token_map)
    found[DRAFT_MARK] = timeline_fingerprint(plan.source, plan.parameters, token_map)
    if plan.former:
        found["draft_samples"] = [one.sample() for one in plan.former]
    if plan.layers is not None:
        found["elsewhere"] = [one.sample() for one in plan.elsewhere]
    return found


def earlier(
    plan: ConversionPlan,
    result: ParameterPlan,
    start: Mapping[str, Any],
    token_map: TokenMap | None,
) -> list[str]:
    """Fingerprints of the same result with the drafts that were left out or made otherwise, as
    cache files of versions 2 to 4 name it."""
    samples = start.get("draft_samples")
    if not samples:
        return []
    return [fingerprint_with(plan.source.config, result, samples, token_map, elsewhere(start))]


def elsewhere(start: Mapping[str, Any]) -> list[Sampled]:
    """Samples of the layers that are not converted, as a journal's start has them."""
    return samples_of(start.get("elsewhere", []))
