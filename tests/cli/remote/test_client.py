"""Asking a server: what it says, what it refuses, and what is said when it is not there."""

import socket
from collections.abc import Iterator
from threading import Event as Flag

import pytest

from cli.remote.client import Comment, NotOffered, ServerClient, ServerError, ServerPlace
from dsv4_mlx.errors import ContextError, Dsv4Error, UsageError
from tests.cli.remote.server import ToldServer, text, told_server

CHAT = "/v1/chat/completions"


@pytest.fixture
def told() -> Iterator[ToldServer]:
    with told_server() as server:
        yield server


def client(told: ToldServer, key: str = "") -> ServerClient:
    return ServerClient(ServerPlace.of(told.url), key)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:8642", "http://127.0.0.1:8642"),
        ("http://127.0.0.1:8642/v1/", "http://127.0.0.1:8642"),
        ("mac.local:81", "http://mac.local:81"),
        ("https://a.example/dsv4/v1", "https://a.example:443/dsv4"),
        ("http://[::1]:5", "http://[::1]:5"),
        ("http://host", "http://host:80"),
    ],
)
def test_a_server_is_named_with_or_without_v1(url: str, place: str) -> None:
    assert str(ServerPlace.of(url)) == place


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http://", "http://a:b", "http://k@h", "http://a?b"]
)
def test_what_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--server takes http://HOST:PORT"):
        ServerPlace.of(url)


def test_data_and_comments_come_in_their_order_until_the_end(told: ToldServer) -> None:
    told.says(": reading 1/2 tokens", text("a"), text("b"))
    parts = list(client(told, "s3cret").stream(CHAT, {"a": 1}, Flag()))
    assert parts == [Comment("reading 1/2 tokens"), text("a"), text("b")]
    assert told.asked == [{"a": 1}]
    assert told.headers[0]["Authorization"] == "Bearer s3cret"


def test_no_key_is_sent_where_there_is_none(told: ToldServer) -> None:
    client(told).get("/v1/models")
    assert "Authorization" not in told.headers[0]


def test_a_cancel_ends_the_stream_and_the_server_sees_it(told: ToldServer) -> None:
    told.says(text("a"), Flag())
    cancelled, parts = Flag(), []
    for part in client(told).stream(CHAT, {}, cancelled):
        parts.append(part)
        cancelled.set()
    assert parts == [text("a")]
    assert told.left.wait(10)


def test_a_stream_that_ends_early_is_an_error(told: ToldServer) -> None:
    told.answers.append((text("a"), None))
    with pytest.raises(ServerError, match="ended in the middle of an answer"):
        list(client(told).stream(CHAT, {}, Flag()))


def test_an_error_in_a_stream_is_its_sentence(told: ToldServer) -> None:
    told.says(text("a"), {"error": {"message": "The model broke.\x1b[2J"}})
    with pytest.raises(ServerError, match=r"^The model broke\.\\x1b\[2J$"):
        list(client(told).stream(CHAT, {}, Flag()))


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (429, {"error": {"message": "256 requests wait."}}, ServerError, "256 requests wait"),
        (404, {"error": {"message": "There is no model."}}, NotOffered, "There is no model"),
        (
            400,
            {"error": {"message": "It is long.", "code": "context_length_exceeded"}},
            ContextError,
            "It is long",
        ),
        (401, {"error": {"message": "no"}}, ServerError, "asks for its key; set DSV4_API_KEY"),
        (500, b"<html>", ServerError, "answered with an error, status 500"),
    ],
)
def test_a_refusal_is_one_sentence(
    told: ToldServer, status: int, body: object, kind: type[Dsv4Error], said: str
) -> None:
    told.error = (status, body)
    with pytest.raises(kind, match=said):
        list(client(told).stream(CHAT, {}, Flag()))
    with pytest.raises(kind, match=said):
        client(told).get("/v1/models")


def test_a_key_that_is_wrong_is_told_from_none(told: ToldServer) -> None:
    told.error = (401, {"error": {"message": "no"}})
    with pytest.raises(ServerError, match="does not take the key in DSV4_API_KEY"):
        list(client(told, "s3cret").stream(CHAT, {}, Flag()))
    with pytest.raises(ServerError, match="does not take the key in DSV4_API_KEY"):
        client(told, "s3cret").get("/v1/models")


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        gone = ServerClient(ServerPlace("http", "127.0.0.1", taken.getsockname()[1], ""))
        with pytest.raises(ServerError, match="does not answer; start it with dsv4-chat serve"):
            gone.get("/v1/models")
        with pytest.raises(ServerError, match="does not answer"):
            list(gone.stream(CHAT, {}, Flag()))


def test_what_is_no_json_is_one_sentence(told: ToldServer) -> None:
    told.error = (200, b"hello")
    with pytest.raises(ServerError, match="sent what is no JSON"):
        client(told).get("/v1/models")
    told.error = None
    told.says("data: {")
    with pytest.raises(ServerError, match="sent what is no JSON"):
        list(client(told).stream(CHAT, {}, Flag()))
