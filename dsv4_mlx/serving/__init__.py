"""Serving many requests with one model, without a network: what a server stands on.

Requests and events are values. `timelines` keeps what was read and finds it again by its tokens,
`scheduler` shares one thread between requests. A dialect of HTTP is a translation on both sides.
"""
