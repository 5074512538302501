"""What of a configuration decides the state of a timeline, by which kept ones are told apart."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from dsv4_mlx.release.config import DeepseekV4Config

_DECIDE_NOTHING = ("num_nextn_predict_layers", "dspark", "other_stop_ids", "initializer_range")
"""Drafts, which guess tokens and never choose one; what ends a reply; how training began."""


def deciding_keys(config: DeepseekV4Config) -> dict[str, Any]:
    """Keys and values without drafts, and without what stands at its default.

    A key that a later version adds leaves the timelines of models that do not set it as they are.
    """
    keys = _set(config)
    for name in _DECIDE_NOTHING:
        keys.pop(name, None)
    return keys | {"compress_ratios": list(config.backbone_ratios)}


def _set(source: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, nested ones as well."""
    found = {}
    for field in fields(source):
        value = getattr(source, field.name)
        if field.default is MISSING or value != field.default:
            found[field.name] = _set(value) if is_dataclass(value) else value
    return found
