"""Optional parts of a cache file: what a reader may pass over, so that formats can grow.

A part is a name, facts (JSON) in the header's `parts`, and tensors `part.NAME.*`. A reader takes
the parts it knows and leaves out the others. The one there is so far, `drafts`, is a drafter's
state: its facts are by offset (the timeline's own and those of its places) the drafter and the
tokens that it had absorbed, its tensors `part.drafts.OFFSET.*`. A reader to which such a state
means nothing begins cold, which costs no token.
"""

import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.drafts import DraftState
from dsv4_mlx.files.documents import DocumentError, parse_json

_BEGINNING = "part."
_DRAFTS = "drafts"
_Arrays = dict[str, mx.array]


def written(drafts: Mapping[int, DraftState | None]) -> tuple[str, _Arrays]:
    """The header's `parts` and the tensors, of what a drafter knew at each offset."""
    known = {offset: state for offset, state in drafts.items() if state is not None}
    facts = {str(at): {"drafter": one.drafter, "offset": one.offset} for at, one in known.items()}
    arrays = {
        f"{_BEGINNING}{_DRAFTS}.{at}.{name}": array
        for at, state in known.items()
        for name, array in state.arrays.items()
    }
    return json.dumps({_DRAFTS: facts} if facts else {}), arrays


def taken(header: Mapping[str, Any], arrays: _Arrays) -> dict[int, DraftState]:
    """What a drafter knew by offset; the tensors of all parts are taken out of `arrays`."""
    found = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_BEGINNING)}
    try:
        facts = parse_json(str(header.get("parts", "{}")))
        states = dict(facts.get(_DRAFTS, {}))
        return {int(at): _state(at, one, found) for at, one in states.items()}
    except (AttributeError, DocumentError, KeyError, TypeError, ValueError):
        return {}


def _state(at: str, facts: Mapping[str, Any], arrays: _Arrays) -> DraftState:
    beginning = f"{_BEGINNING}{_DRAFTS}.{at}."
    own = {n.removeprefix(beginning): a for n, a in arrays.items() if n.startswith(beginning)}
    return DraftState(str(facts["drafter"]), int(facts["offset"]), own)
