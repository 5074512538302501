"""benchmarks/trace_token.py: one token is captured, after others, and refusals are sentences."""

from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks import trace_token
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY


def test_one_token_is_captured_after_those_that_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    own = Model.last_logits

    def counted(self: Model, tokens: mx.array, cache: object) -> mx.array:
        seen.append(f"{tokens.shape[1]}")
        return own(self, tokens, cache)

    monkeypatch.setattr(Model, "last_logits", counted)
    monkeypatch.setattr(mx.metal, "start_capture", lambda path: seen.append(Path(path).name))
    monkeypatch.setattr(mx.metal, "stop_capture", lambda: seen.append("end"))
    trace_token.captured(Model(TINY, backend="cpu"), [3, 4, 5], tmp_path / "x.gputrace")
    assert seen == ["3", *["1"] * trace_token._WARM_UPS, "x.gputrace", "1", "end"]


def test_what_stands_in_the_way_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "token.gputrace"
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert trace_token.main(["--out", str(out)]) == 1
    assert "needs a Mac with a Metal device" in capsys.readouterr().err
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.delenv(trace_token.VARIABLE, raising=False)
    assert "MTL_CAPTURE_ENABLED=1 is set before" in trace_token.refusal(out)
    monkeypatch.setenv(trace_token.VARIABLE, "1")
    assert trace_token.refusal(out) == ""
    out.mkdir()
    assert "exists, and Metal writes no trace over another" in trace_token.refusal(out)
