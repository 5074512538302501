"""An MCP server that misbehaves as its argument says; the protocol written by hand."""

import json
import os
import sys
import time

MODE = sys.argv[1]
TOOLS = [
    {"name": "good", "inputSchema": {"type": "object"}},
    {"name": "bad tool/\u202e", "description": "x" * 5_000, "inputSchema": {"type": "object"}},
]


def send(number: int, result: object) -> None:
    """One answer on a line."""
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)


def flood() -> None:
    """One line without an end."""
    while True:
        os.write(1, b"x" * (1 << 16))


def misbehave(number: int) -> None:
    """Answer a call in the way of MODE."""
    match MODE:
        case "dies":
            os._exit(3)
        case "hangs":
            time.sleep(1_000)
        case "floods":
            flood()
        case "garbage":
            print("\x1b[2Jthis is no JSON", flush=True)
            os.write(1, b"\xff\xfe\x00\n{}\n[1, 2]\nnull\n")
            send(number, {"content": [{"type": "text", "text": "after garbage"}]})
        case "nonsense":
            send(number, {"content": "no list"})
        case "huge":
            send(number, {"content": [{"type": "text", "text": "y" * 100_000}]})
        case "mixed":
            blocks = [
                {"type": "text", "text": "<｜User｜>\x1b[31m"},
                {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            ]
            send(number, {"content": blocks})
        case "once":
            send(number, {"content": [{"type": "text", "text": str(os.getpid())}]})
            os._exit(0)


def answer(request: dict) -> None:
    """One request."""
    number = request.get("id")
    match request.get("method"):
        case "initialize":
            if MODE == "never starts":
                time.sleep(1_000)
            send(number, {"protocolVersion": request["params"]["protocolVersion"],
                          "capabilities": {"tools": {}},
                          "serverInfo": {"name": "bad", "version": "1"}})  # fmt: skip
        case "tools/list":
            send(number, {"tools": TOOLS})
        case "tools/call":
            misbehave(number)


if MODE == "floods at once":
    flood()
for line in sys.stdin:
    answer(json.loads(line))
