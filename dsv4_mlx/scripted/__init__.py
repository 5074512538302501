"""The engine that follows a script instead of weights, for demonstrations and for tests."""
