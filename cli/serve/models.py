"""`GET /v1/models`: the one model by each of its names, in the fields of both kinds of clients."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cli.serve.faults import RequestFault
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.engine.sampling import RANGES
from dsv4_mlx.files.documents import shown


def model_entry(
    name: str, created: int, context: int, checkpoint: ChatSettings, defaults: AnswerSettings
) -> dict[str, Any]:
    """What is told of the model under one of its names; `context` in tokens, as memory allows, and
    thinking and sampling as a request has them that says nothing."""
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created": created,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "owned_by": "dsv4-mlx",
        "max_model_len": context,
        "context_length": context,
        "max_input_tokens": context,
        "reasoning_levels": list(checkpoint.levels),
        "reasoning_level": defaults.thinking.level,
        "effort_table": checkpoint.effort_table,
        "sampling": {one: getattr(defaults.sampling, one) for one in RANGES},
    }


def models_body(entries: list[dict[str, Any]]) -> Mapping[str, Any]:
    """All entries as a list."""
    return {
        "object": "list",
        "data": entries,
        "has_more": False,
        "first_id": entries[0]["id"],
        "last_id": entries[-1]["id"],
    }


def entry_named(name: str, entries: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The entry of one name; RequestFault with the names there are."""
    for entry in entries:
        if entry["id"] == name:
            return entry
    there = ", ".join(entry["id"] for entry in entries)
    raise RequestFault(
        "unknown_model", f"There is no model {shown(name)} here; there is {there}.", "model"
    )
