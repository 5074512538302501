"""Chat as pure text: messages to a prompt, a reply back to a message. Imports no mlx."""
