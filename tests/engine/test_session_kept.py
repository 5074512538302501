"""Session files as they are written, and as older versions of this program wrote them."""

import base64
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.model.v4 import Model
from tests.engine.sessions import ids
from tests.model import small

# `kept/session_v2.kv` to `session_v4.kv` were written by sessions of this model when those versions
# were new: PROMPT read, three tokens generated, saved with the note NOTES.
KEPT = Path(__file__).parent / "kept"
CONFIG = small.config(
    num_hidden_layers=2, compress_ratios=[4, 0, 0], sliding_window=6, index_topk=4
)
PROMPT, REPLY = small.TOKENS[:21].tolist(), [29, 40, 80]
NOTES = {"title": "Grüße"}


@pytest.fixture(scope="module")
def model() -> Model:
    model = small.model(CONFIG, small.weights(CONFIG))
    model.fingerprint = "a" * 64
    return model


def stored(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    return mx.load(str(path), format="safetensors", return_metadata=True)


@pytest.mark.parametrize(("version", "places"), [("2", []), ("3", [20]), ("4", [20])])
def test_a_session_of_an_older_version_goes_on(
    model: Model, version: str, places: list[int]
) -> None:
    path = KEPT / f"session_v{version}.kv"
    arrays, header = stored(path)
    if version == "4":
        logits = np.array(arrays["session.logits"]).tobytes()
    else:
        logits = base64.b64decode(json.loads(header["details"])["session.logits"])
    session, fresh = Engine(model).session(), Engine(model).session()
    assert (header["version"], session.load(path)) == (version, NOTES)
    assert session.tokens == PROMPT + REPLY
    assert np.array(session.snapshot().logits).tobytes() == logits
    assert [place.offset for place in session.places] == places
    fresh.sync(PROMPT + REPLY)
    assert ids(session, 5) == ids(fresh, 5)


def test_logits_are_written_as_a_tensor_and_come_back_by_bits(model: Model, tmp_path: Path) -> None:
    session, other = Engine(model).session(), Engine(model).session()
    session.sync(PROMPT)
    logits = np.array(session.snapshot().logits)
    session.save(tmp_path / "a.session", NOTES)
    arrays, header = stored(tmp_path / "a.session")
    assert json.loads(header["details"]) == NOTES
    np.testing.assert_array_equal(np.array(arrays["session.logits"]), logits)
    assert other.load(tmp_path / "a.session") == NOTES
    np.testing.assert_array_equal(np.array(other.snapshot().logits), logits)
