"""What weights take in memory, said from headers, against the arrays that are loaded."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dsv4_mlx.loading import load
from dsv4_mlx.sizing.weight_bytes import block_bytes, streamed_weights, weight_bytes
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

# Widths for which scales are a small share, as they are in the release.
WIDE = TINY.replace(
    num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), num_hash_layers=1, q_lora_rank=128
)


@pytest.mark.parametrize(
    "variant",
    [{}, {"transformers_names": True}, {"dspark": True}],
    ids=["official", "transformers", "dspark"],
)
@pytest.mark.parametrize(("dtype", "dense"), [(mx.bfloat16, 2), (mx.float32, 4)])
def test_headers_tell_what_loading_takes(tmp_path: Path, variant, dtype, dense) -> None:
    write_tiny_checkpoint(tmp_path, WIDE, **variant)
    model, _ = load(tmp_path, dtype=dtype)
    loaded = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert weight_bytes(open_checkpoint(tmp_path), dense=dense) == pytest.approx(loaded, rel=2e-3)


def test_headers_tell_what_an_expert_takes(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, WIDE)
    checkpoint = open_checkpoint(tmp_path)
    found = streamed_weights(checkpoint)
    stacks = {
        name: array.nbytes
        for name, array in tree_flatten(load(tmp_path, dtype=mx.bfloat16)[0].parameters())
        if ".mlp.experts." in name and name.startswith("model.")
    }
    experts, layers = WIDE.n_routed_experts, WIDE.num_hidden_layers
    assert len(stacks) == 4 * layers
    assert found.slot_bytes == found.file_bytes == sum(stacks.values()) // experts
    assert found.expert_bytes == sum(stacks.values()) // (experts * layers)
    drafts = block_bytes(checkpoint)
    assert found.resident == weight_bytes(checkpoint) - drafts - experts * found.slot_bytes
    assert found.read < found.resident
