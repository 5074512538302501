"""Where a conversation is typed and shown: plain lines or a terminal that is redrawn."""
