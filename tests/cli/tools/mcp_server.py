"""A small MCP server on the official package, for tests."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("notes")


@server.tool()
def greet(name: str, times: int = 1) -> str:
    """Greet somebody."""
    return " ".join([f"Hello {name}."] * times)


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("the notes are locked")


@server.tool()
def count(words: list[str]) -> dict[str, int]:
    """Count words."""
    return {word: words.count(word) for word in words}


if __name__ == "__main__":
    server.run("stdio")
