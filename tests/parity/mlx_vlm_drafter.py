"""mlx-vlm's DSpark drafter, given official weights in float32.

Only the modules that it is made of are imported: the packages around them would take 18 seconds
and 2,800 modules more.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.spellings import keys_of

_DRAFTER = "mlx_vlm.speculative.drafters.deepseek_v4_dspark"
_PACKAGES = (
    "mlx_vlm",
    "mlx_vlm.models",
    "mlx_vlm.models.deepseek_v4",
    "mlx_vlm.speculative",
    "mlx_vlm.speculative.drafters",
    "mlx_vlm.speculative.drafters.deepseek_v4_mtp",
    "mlx_vlm.speculative.drafters.dspark",
    _DRAFTER,
)


class Drafter:
    """One timeline of mlx-vlm's drafter; every call absorbs taps and drafts a block."""

    def __init__(self, config: DeepseekV4Config, weights: Mapping[str, np.ndarray]) -> None:
        """`weights` by official names: the stages', `embed.weight` and `head.weight`."""
        assert config.dspark is not None
        self._size = config.dspark.block_size
        options = importlib.import_module(f"{_DRAFTER}.config").DeepseekV4DsparkConfig(
            text_config=keys_of(config),
            n_mtp_layers=config.num_draft_stages,
            target_layer_ids=config.dspark.target_layer_ids,
            mask_token_id=config.dspark.noise_token_id,
            markov_rank=config.dspark.markov_rank,
            block_size=self._size + 1,
        )
        drafters = importlib.import_module(f"{_DRAFTER}.deepseek_v4_dspark")
        self._model = drafters.DeepseekV4DsparkDraftModel(options)
        stages = {n: mx.array(w) for n, w in weights.items() if n.startswith("mtp.")}
        self._model.load_weights(list(self._model.sanitize(stages).items()), strict=True)
        self._model.eval()
        embedding, head = (_layer(weights[f"{name}.weight"]) for name in ("embed", "head"))
        target = SimpleNamespace(embed_tokens=embedding, lm_head=head.as_linear)
        self._cache = self._model.reset(target)

    def block(self, taps: mx.array, anchor: int) -> tuple[list[int], np.ndarray]:
        """The taps [1, S, 3 D] that come next -> drafts [B] after `anchor`, and logits [B, V]
        without the Markov head."""
        noise = [self._model.config.mask_token_id] * (self._size - 1)
        inputs = mx.array([[anchor, *noise]])
        logits = self._model._logits(self._model._hidden(inputs, taps, self._cache))
        drafts = self._model.markov_head.sample_block(
            logits, first_prev_tokens=mx.array([anchor]), sampler=_likeliest
        )
        return drafts[0].tolist(), np.array(logits[0])


@contextmanager
def alone() -> Iterator[None]:
    """Inside, mlx-vlm's packages are bare and `Drafter` works; afterwards nobody imported them."""
    spec = importlib.util.find_spec("mlx_vlm")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    hidden = _taken_out()
    try:
        for name in _PACKAGES:
            package = ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        yield
    finally:
        _taken_out()
        sys.modules |= hidden


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "mlx_vlm"]
    return {name: sys.modules.pop(name) for name in names}


def _layer(weight: np.ndarray) -> nn.Embedding:
    """An embedding; mlx.nn's multiplies by its matrix too, as a head does."""
    layer = nn.Embedding(*weight.shape)
    layer.weight = mx.array(weight)
    return layer


def _likeliest(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)
