"""Tools that the model may use in a conversation: files, a calculator, commands, MCP servers."""
