"""Talking at the prompt: the controller, the chat it leads, and the slash commands."""
