"""Cache and session files: written by the checkout before, read and gone on with by both."""

import base64
import json
from pathlib import Path
from typing import Any

import dsv4_mlx  # before mlx, which binds to a BLAS when it is loaded

import mlx.core as mx  # isort: skip
import numpy as np

from .logits import _loaded, _said, prompt

PLACES = (60, 200)
_LOGITS = "session.logits"
_LATER = ("place", _LOGITS)

Arrays = dict[str, mx.array]
Header = dict[str, str]


def write(folder: str, kv: str, into: str, damaged: bool = True) -> dict[str, str]:
    """Files of every format, and `damaged` ones, for the model in `folder`; these are no facts."""
    model, out = _loaded(folder, kv, "OFFICIAL"), Path(into)
    out.mkdir(parents=True)
    session = dsv4_mlx.Engine(model).session()
    session.sync(prompt(model.config.vocab_size), places=PLACES)
    list(session.stream(max_tokens=5, stop_ids=()))
    whole = out / "good whole.kv"
    session.save(whole, {"note": "kept", "language": "Größe 你好"})
    session.save(out / "good without places.kv", place_bytes=0)
    session.save_place(out / "good beginning.kv", PLACES[1])
    old = _version_2(whole)
    _save(out / "good version 2.kv", *old)
    if damaged:
        _edit(out, *old)
        _damage(whole, out)
    return {}


def read(folder: str, kv: str, files: str) -> dict[str, str]:
    """What each file leads to: its metadata and the tokens that follow, or the refusal."""
    engine = dsv4_mlx.Engine(_loaded(folder, kv, "OFFICIAL"))
    return {path.stem: _outcome(engine, path) for path in sorted(Path(files).glob("*.kv"))}


def own(folder: str, kv: str, into: str) -> dict[str, str]:
    """A file of this checkout's own format, written and read back by it."""
    engine = dsv4_mlx.Engine(_loaded(folder, kv, "OFFICIAL"))
    session = engine.session()
    session.sync(prompt(engine.config.vocab_size), places=PLACES)
    path = Path(into)
    session.save(path, {"note": "kept"})
    return {"own format": _outcome(engine, path)}


def _outcome(engine: Any, path: Path) -> str:
    session = engine.session()
    try:
        metadata = session.load(path)
    except Exception as error:
        sentence = str(error).replace(str(path), "FILE")
        return f"{type(error).__name__}: {sentence.rstrip('.')}"  # no full stop up to 74212a8
    facts = [str(dict(metadata)), str(session.tokens), str(session.sizes())]
    facts.append(_said(session, max_tokens=8, stop_ids=()))
    facts.append(f"back to {session.rewind(PLACES[1])}")  # 0 where the file has no places
    if session.tokens:
        facts.append(_said(session, max_tokens=8, stop_ids=()))
    return "\n".join(facts)


def _version_2(whole: Path) -> tuple[Arrays, Header]:
    """Arrays and header as version 2 had them: no places, no checksum, the logits as text."""
    loaded: Any = mx.load(str(whole), format="safetensors", return_metadata=True)
    arrays, header = loaded
    kept = {name: array for name, array in arrays.items() if not name.startswith(_LATER)}
    mx.eval(list(kept.values()))
    details = json.loads(header["details"])
    if _LOGITS in arrays:  # a tensor from version 4 on
        values = np.array(arrays[_LOGITS], "<f4").tobytes()
        details[_LOGITS] = base64.b64encode(values).decode()
    old = {name: text for name, text in header.items() if name != "checksum"}
    return kept, old | {"version": "2", "details": json.dumps(details)}


def _edit(out: Path, kept: Arrays, old: Header) -> None:
    """Files that say what no model fits; without a checksum it is read."""
    for name, wrong in {
        "version": "1",
        "format": "another",
        "layout": "unheard",
        "fingerprint": "another",
        "details": "[]",
    }.items():
        _save(out / f"bad {name}.kv", kept, old | {name: wrong})
    _save(out / "bad header.kv", kept, {k: v for k, v in old.items() if k != "layout"})
    _save(out / "bad ids.kv", kept | {"tokens": kept["tokens"] + 1_000_000}, old)
    _save(out / "bad length.kv", kept | {"tokens": kept["tokens"][200:]}, old)
    _save(out / "bad array.kv", kept | {"9.window": kept["0.window"]}, old)
    _save(out / "bad shape.kv", kept | {"0.window": kept["0.window"][:, 1:]}, old)


def _save(path: Path, arrays: Arrays, header: Header) -> None:
    written = path.with_suffix(".safetensors")
    mx.save_safetensors(str(written), arrays, header)
    written.rename(path)


def _damage(whole: Path, out: Path) -> None:
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[-1000] ^= 1
    (out / "bad bit.kv").write_bytes(flipped)
    (out / "bad end.kv").write_bytes(content[: len(content) // 2])
    (out / "bad empty.kv").write_bytes(b"")
    (out / "bad kind.kv").write_text("no cache file at all")
