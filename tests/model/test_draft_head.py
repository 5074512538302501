"""Drafts may read the head in eight bits: replies stay, bytes fall, and the model never sees it."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, DSpark
from dsv4_mlx.sizing.weight_bytes import draft_bytes, draft_head_bytes
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint

MTP = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(0, 4, 0),
    num_hash_layers=0,
    n_routed_experts=4,
    hc_sinkhorn_iters=1,
)
CONFIGS = {
    "mtp": MTP,
    "dspark": MTP.replace(dspark=DSpark(5, 511, (0, 1, 1), 32), compress_ratios=(0, 4, 0, 0)),
}
Replies = list[tuple[int, float]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("heads")
    return {
        kind: open_checkpoint(write_tiny_checkpoint(folder / kind, config, tokenizer=False))
        for kind, config in CONFIGS.items()
    }


def loaded(checkpoint: Checkpoint, draft_head: bool | None) -> Model:
    return load_model(
        checkpoint, dtype=mx.float32, backend="cpu", drafts=True, draft_head=draft_head
    )


def replied(model: Model, drafts: bool) -> tuple[Replies, int]:
    """Tokens and log-probabilities of one reply, and how many guesses it had."""
    engine = Engine(model)
    kind = model.config.draft_kind
    assert kind is not None
    engine.drafting.use(kind if drafts else "off", 3 if drafts else None)
    session = engine.session()
    session.sync([3, 5, 7, 9, 11])
    reply = [(token.id, token.logprob) for token in session.stream(12, stop_ids=())]
    return reply, 0 if session.draft_use is None else session.draft_use.drafted


@pytest.mark.parametrize("kind", CONFIGS)
def test_replies_are_the_same_with_a_head_of_eight_bits(
    checkpoints: dict[str, Checkpoint], kind: str
) -> None:
    plain, _ = replied(loaded(checkpoints[kind], None), drafts=False)
    model = loaded(checkpoints[kind], draft_head=True)
    assert model.draft_head is not None
    reply, drafted = replied(model, drafts=True)
    assert reply == plain and drafted > 0


@pytest.mark.parametrize("kind", CONFIGS)
def test_drafts_read_it_and_the_model_does_not(
    checkpoints: dict[str, Checkpoint], kind: str
) -> None:
    model = loaded(checkpoints[kind], draft_head=True)
    tokens = mx.array([[3, 5, 7]])
    _, features = model.last_logits_and_features(tokens)

    def guesses() -> list[int]:
        drafts = model.drafts()
        assert drafts is not None
        drafter = drafts.new_drafter()
        drafter.absorb([3, 5, 7], features)
        return [int(one) for one in drafter.draft(9, 3).tolist()]  # type: ignore[union-attr, arg-type]

    before, own = model(tokens), guesses()
    head = model.draft_head
    assert head is not None
    biases = head.weight.biases
    assert biases is not None
    turned = [
        mx.concatenate([one[7:], one[:7]])
        for one in (head.weight.weight, head.weight.scales, biases)
    ]
    head.weight = replace(head.weight, weight=turned[0], scales=turned[1], biases=turned[2])
    assert mx.array_equal(model(tokens), before).item()
    assert guesses() != own


def test_it_is_the_head_to_eight_bits(checkpoints: dict[str, Checkpoint]) -> None:
    model = loaded(checkpoints["mtp"], draft_head=True)
    x = mx.random.normal((2, 3, MTP.hidden_size), key=mx.random.key(1))
    exact, found = model.lm_head(x), model.drafts_read(x)
    # Half a step of 255 in a group's range, seen by each of its inputs.
    assert mx.abs(found - exact).max().item() < 0.02 * mx.abs(exact).max().item()
    assert not mx.array_equal(found, exact).item()


def test_bytes_are_counted(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["mtp"]
    head = loaded(checkpoint, draft_head=True).draft_head
    assert head is not None and head.nbytes == draft_head_bytes(checkpoint)
    flash = replace(checkpoint, config=FLASH)
    assert draft_head_bytes(flash) == 595_722_240  # of 1,059,061,760 in bfloat16
    blocks = [draft_bytes(checkpoint, dense=dense) for dense in (2, 4)]
    without = {n: one for n, one in checkpoint.tensors.items() if not n.startswith("mtp.")}
    assert draft_bytes(replace(checkpoint, tensors=without)) == 0
    assert 0 < blocks[0] - head.nbytes < blocks[1]


def test_who_has_one(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    assert (
        loaded(checkpoints["mtp"], None).draft_head is None
    )  # on a CPU only where it is asked for
    bare = load_model(checkpoints["mtp"], backend="cpu", drafts=False, draft_head=True)
    assert bare.draft_head is None
    packed = loaded(checkpoints["mtp"], None)
    packed.lm_head = packed.lm_head.to_quantized(64, 8)  # type: ignore[assignment]
    packed.pack_draft_head()
    assert packed.draft_head is None
    stages = loaded(checkpoints["dspark"], draft_head=True)
    costs = [stages.drafts().draft_costs[1]]  # type: ignore[union-attr]
    stages.draft_head = None
    costs.append(stages.drafts().draft_costs[1])  # type: ignore[union-attr]
    assert costs[0] < costs[1]
    stages.pack_draft_head()
    stages.drop_stages()
    assert stages.draft_head is None
