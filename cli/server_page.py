"""What `dsv4-chat --server URL doctor` tells of the server."""

from collections.abc import Mapping
from typing import Any

from cli.environment import KEY_VARIABLE, Environment
from cli.machine.doctor_report import Page
from cli.options import Options
from cli.remote.client import NotOffered, ServerClient, ServerError, ServerPlace
from cli.remote.remote_models import chat_settings, first_model
from cli.safe import exact


def server_page(page: Page, options: Options, environment: Environment) -> None:
    """Add the server that `options` name: its model, and whether it is well."""
    key = environment.variables.get(KEY_VARIABLE, "")
    client = ServerClient(ServerPlace.of(options.server or ""), key)
    address = str(client.place)
    try:
        entry = first_model(client)
        health = _health(client)
    except ServerError as error:
        page.add("server", {"address": address}, address)
        page.problems.append(str(error))
        return
    name, settings = str(entry["id"]), chat_settings(entry)
    facts: dict[str, Any] = {
        "address": address,
        "has_key": bool(key),
        "model": name,
        "context": settings.context,
        "levels": list(settings.levels),
        "health": health,
    }
    lines = [
        f"its model is {name}, used with a context of {settings.context:,} tokens",
        f"levels {', '.join(settings.levels)}",
    ]
    if health is None:
        lines.append("it does not tell how it is, as other programs' servers do not")
    else:
        lines.append(_state(health))
    page.add("server", facts, address, *lines)
    if health is not None and health.get("status") not in ("ready", "idle"):
        why = exact(str(health.get("error") or "its own screen or log says more."))
        page.problems.append(f"{address} is {exact(str(health['status']))}: {why}")


def _health(client: ServerClient) -> Mapping[str, Any] | None:
    """What it says of itself; None for a server of another kind."""
    try:
        found = client.get("/health", even=503)
    except NotOffered:
        return None
    return found if isinstance(found, Mapping) and "status" in found else None


def _state(health: Mapping[str, Any]) -> str:
    counts = [f"{health[name]} {name}" for name in ("running", "waiting") if name in health]
    return f"it is {health['status']}" + (f", requests: {', '.join(counts)}" if counts else "")
