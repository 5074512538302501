"""From tokens to logits. Read `v4` first, then `decoder_layer`, `attention` and `moe`."""
