"""The terminal that a conversation is typed and shown on."""
