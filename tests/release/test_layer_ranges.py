"""Ranges of layers: how they are written, and that two of them hold everything once."""

import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.layer_ranges import LayerRange, read_layers
from dsv4_mlx.release.naming import translate
from dsv4_mlx.release.tensors import checkpoint_tensors


@pytest.mark.parametrize(
    ("text", "found"),
    [("0:20", (0, 20)), ("20:43", (20, 43)), (":20", (0, 20)), (" 20: ", (20, 43)), (":", (0, 43))],
)
def test_a_range_is_two_numbers(text: str, found: tuple[int, int]) -> None:
    one = read_layers(text, 43)
    assert (one.first, one.stop, one.of) == (*found, 43)


@pytest.mark.parametrize(
    "text", ["", "5", "20:20", "20:10", "0:44", "43:", "-1:3", "a:b", "1:2:3", "²:3", "0x1:9"]
)
def test_what_is_no_range_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(UsageError, match=r"layers are .*, expected a:b"):
        read_layers(text, 43)


@pytest.mark.parametrize("border", [1, 20, 42])
def test_two_ranges_hold_every_parameter_once(border: int) -> None:
    parts = LayerRange(0, border, 43), LayerRange(border, 43, 43)
    modules = {target.module for spec in checkpoint_tensors(FLASH)
               if (target := translate(spec.name))}  # fmt: skip
    assert "mtp.0.e_proj" in modules and "lm_head" in modules
    for module in modules:
        assert [part.holds(module) for part in parts].count(True) == 1, module
    assert parts[0].holds("model.embed_tokens") and parts[1].holds("lm_head")
    assert parts[1].holds("model.norm") and parts[1].holds("mtp.0.e_proj")
    assert not parts[0].holds(f"model.layers.{border}.mlp.gate")


def test_a_range_knows_its_parts() -> None:
    whole, part = LayerRange(0, 43, 43), LayerRange(3, 20, 43)
    assert whole.is_whole and not part.is_whole
    assert whole.includes(part) and not part.includes(whole) and part.includes(part)
    assert not LayerRange(0, 61, 61).includes(part)
    assert part.sentence() == "layers 3:20 of 43"
