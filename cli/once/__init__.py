"""Answering one message and leaving."""
