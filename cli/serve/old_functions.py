"""The old form of tools in chat completions: `functions`, `function_call`, messages of functions.

A body of that form is read as one with tools, and answered in the old form, which has one call and
no ids: results belong to the last call of their function.
"""

from collections.abc import Mapping
from typing import Any

from cli.serve.faults import RequestFault
from cli.serve.reading import Body, invalid

_OLD, _NEW = ("functions", "function_call"), ("tools", "tool_choice")


def in_new_form(body: Body) -> tuple[Body, bool]:
    """The body with tools in the place of functions, and whether it had functions."""
    changed = dict(body)
    messages = body.get("messages")
    if isinstance(messages, list):
        changed["messages"] = _messages(messages)
    functions, choice = (changed.pop(name, None) for name in _OLD)
    if functions is None:
        if isinstance(choice, Mapping):
            raise invalid("function_call", "auto or none where no functions are given", choice)
        return changed, False
    for name in _NEW:
        if body.get(name) is not None:
            raise RequestFault(
                "invalid", f"functions and {name} are two forms of the same; give tools.", name
            )
    if not isinstance(functions, list):
        raise invalid("functions", "a list", functions)
    tools = [_tool(function, f"functions[{place}]") for place, function in enumerate(functions)]
    changed |= {"tools": tools, "parallel_tool_calls": False}
    if choice is not None:
        changed["tool_choice"] = _choice(choice, [tool["function"]["name"] for tool in tools])
    return changed, True


def _tool(function: Any, where: str) -> dict[str, Any]:
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise invalid(where, "an object with a name, a text", function)
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise invalid(f"{where}.parameters", "a schema, an object", parameters)
    return {"type": "function", "function": function}


def _choice(choice: Any, names: list[str]) -> Any:
    if choice in ("auto", "none"):
        return choice
    name = choice.get("name") if isinstance(choice, Mapping) else None
    if name not in names:
        expected = f"auto, none or the name of one of the functions {', '.join(names) or '(none)'}"
        raise invalid("function_call", expected, choice)
    return {"type": "function", "function": {"name": name}}


def _messages(messages: list[Any]) -> list[Any]:
    """Messages with calls and results of tools, by ids of this conversation's own."""
    found: list[Any] = []
    called: dict[str, str] = {}
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            found.append(message)
        elif message.get("role") == "function":
            found.append(_result(message, called, f"messages[{place}]"))
        elif message.get("function_call") is None:
            found.append(_without(message, "function_call"))
        else:
            found.append(_called(message, f"messages[{place}]"))
            (call,) = found[-1]["tool_calls"]
            called[call["function"]["name"]] = call["id"]
    return found


def _called(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    call = message["function_call"]
    fields = call if isinstance(call, Mapping) else {}
    if not all(isinstance(fields.get(name), str) for name in ("name", "arguments")):
        raise _wrong(f"{where}.function_call", "an object with texts name and arguments", call)
    if message.get("tool_calls"):
        raise _wrong(f"{where}.function_call", "nothing beside tool_calls", call)
    function = {"name": fields["name"], "arguments": fields["arguments"]}
    call = {"type": "function", "id": f"function_of_{where}", "function": function}
    return {**_without(message, "function_call"), "tool_calls": [call]}


def _result(message: Mapping[str, Any], called: Mapping[str, str], where: str) -> dict[str, Any]:
    name = message.get("name")
    if not isinstance(name, str):
        raise _wrong(f"{where}.name", "that of a function, a text", name)
    return {**_without(message, "name"), "role": "tool", "tool_call_id": called.get(name, "")}


def _without(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != name}


def _wrong(where: str, expected: str, found: object) -> RequestFault:
    fault = invalid(where, expected, found)
    return RequestFault("invalid", str(fault), "messages")
