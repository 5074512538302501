"""Experts read from files: layers of V4-Flash written to a scratch folder, beside all in memory."""

import tempfile
from pathlib import Path

from benchmarks.report.setting import Setting
from benchmarks.report.sizes import layered
from benchmarks.report.teller import Teller
from benchmarks.streaming import measured, opener, prompt_of
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

LAYERS, EXPERTS, VOCABULARY = 2, 16, 16_384
"""Enough for a disk to answer and little enough to be written: 0.7 GB of V4-Flash."""


def run(teller: Teller, setting: Setting) -> None:
    """Rows `streaming`: nearly all experts in memory, which tells what waiting for each layer's
    choice costs, and those of one token, which tells how fast the disk gives single ones."""
    sizes = setting.sizes
    config = layered(sizes.config, LAYERS).replace(n_routed_experts=EXPERTS)
    config = config.replace(vocab_size=min(config.vocab_size, VOCABULARY))
    with tempfile.TemporaryDirectory() as scratch:
        teller.at("writing layers with all their experts")
        folder = write_tiny_checkpoint(Path(scratch) / "layers", config, tokenizer=False)
        checkpoint = open_checkpoint(folder)
        for slots in (EXPERTS - 1, config.num_experts_per_tok):
            teller.at(f"decoding with {slots} of {EXPERTS} experts of each layer in memory")
            found = measured(
                opener(checkpoint, setting.backend),
                slots,
                prompt_of(config, sizes.context),
                sizes.decode_tokens,
                sizes.rounds,
            )
            reply = found.reply
            teller.row(
                "streaming",
                layers=LAYERS,
                slots=slots,
                experts=EXPERTS,
                tokens=found.tokens,
                hits=reply.hits,
                misses=reply.misses,
                bytes_read=reply.bytes_read,
                waited_s=reply.waited_s,
                ratios=list(found.ratios),
                resident_s=found.resident_s,
            )
