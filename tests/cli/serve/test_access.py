"""Who may ask: by key, by name, by page, and how often."""

from pathlib import Path
from typing import Any

import pytest

from cli.serve.access import Access, ApiKeys, owner_of, read_keys
from cli.serve.faults import RequestFault
from cli.serve.limits import HttpLimits
from cli.serve.records import Records
from dsv4_mlx.errors import UsageError
from tests.cli.serve.served_app import PATIENCE_S, Answer, Client, Served, script

ASKS = "access-control-request-headers"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hello"}]}
ANN, BOB = "key-of-ann-1", "key-of-bob-2"


def scope(host: str | None = "localhost:8642", **options: Any) -> dict[str, Any]:
    headers = {"host": host, **options.pop("headers", {})}
    given = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    return {"type": "http", "method": "POST", "path": CHAT, "headers": given, **options}


def refused(access: Access, asked: dict[str, Any]) -> str:
    with pytest.raises(RequestFault) as caught:
        access.check(asked)
    return caught.value.fault.kind


@pytest.mark.parametrize("name", ["authorization", "Authorization", "x-api-key"])
def test_each_key_is_a_person(name: str) -> None:
    access = Access(ApiKeys([ANN, BOB]))
    for key in (ANN, BOB):
        value = key if name == "x-api-key" else f"Bearer {key}"
        assert access.check(scope(headers={name.lower(): value})) == owner_of(key)
    assert owner_of(ANN) != owner_of(BOB) and ANN not in owner_of(ANN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-key-1"},
        {"authorization": f"Basic {ANN}"},
        {"authorization": "Bearer "},
        {"x-api-key": ANN[:-1]},
        {"x-api-key": "schlüssel-1"},
    ],
)
def test_without_one_of_the_keys_nobody_asks(headers: dict[str, str]) -> None:
    assert refused(Access(ApiKeys([ANN])), scope(headers=headers)) == "unauthorized"


@pytest.mark.parametrize("origin", ["foo", "https://a.example/", "https://A.example", "a.example"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin takes what a browser sends"):
        Access(ApiKeys([]), allowed_origins=[origin])


def test_origins_of_pages_files_and_programs_are_taken() -> None:
    for origin in ("https://a.example", "http://[::1]:8080", "app://obsidian.md", "null"):
        Access(ApiKeys([]), allowed_origins=[origin]).check(scope(headers={"origin": origin}))


def test_a_wrong_key_is_told_from_none() -> None:
    access = Access(ApiKeys([ANN]))
    with pytest.raises(RequestFault, match="A key is needed here"):
        access.check(scope())
    with pytest.raises(RequestFault, match="none of this server's"):
        access.check(scope(headers={"x-api-key": ANN[:-1]}))


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# people\n{ANN}\n\n  {BOB}  \n", encoding="utf-8")
    keys = read_keys(file, "key-of-cid-3")
    assert set(keys.owners) == {owner_of(key) for key in (ANN, BOB, "key-of-cid-3")}
    assert read_keys(None, None).owners == ("",)


@pytest.mark.parametrize("text", ["", "# nothing\n", "short", "with space in it", "ключ-ключ"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        read_keys(tmp_path / "keys", None)
    with pytest.raises(UsageError):
        read_keys(tmp_path / "missing", None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "mac.local"])
def test_another_address_demands_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="takes a key"):
        Access(ApiKeys(), host)
    Access(ApiKeys([ANN]), host)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("localhost:8642", True),
        ("LOCALHOST.", True),
        ("127.0.0.1:1", True),
        ("127.8.9.1", True),
        ("[::1]:8642", True),
        ("box.example:8642", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.1.5", False),
        ("", False),
        (None, False),
    ],
)
def test_the_name_asked_has_to_be_this_machines(host: str | None, is_ours: bool) -> None:
    access = Access(ApiKeys(), allowed_hosts=["box.example"])
    if is_ours:
        assert access.check(scope(host)) == ""
    else:
        assert refused(access, scope(host)) == "forbidden"


def test_a_second_name_is_none() -> None:
    asked = scope()
    asked["headers"].append((b"host", b"localhost"))
    assert refused(Access(ApiKeys()), asked) == "forbidden"


def test_on_other_addresses_this_machine_goes_by_them_and_not_by_strange_names() -> None:
    access = Access(ApiKeys([ANN]), "0.0.0.0")
    key = {"x-api-key": ANN}
    assert access.check(scope("192.168.1.5:8642", headers=key)) == owner_of(ANN)
    assert refused(access, scope("evil.example", headers=key)) == "forbidden"


@pytest.mark.parametrize(
    ("origin", "may_ask"),
    [
        ("http://localhost:8642", True),
        ("https://app.example", True),
        ("http://localhost:3000", False),
        ("https://evil.example", False),
        ("null", False),
        ("file://", False),
    ],
)
def test_only_our_own_page_and_allowed_ones_may_ask(origin: str, may_ask: bool) -> None:
    access = Access(ApiKeys(), allowed_origins=["https://app.example"])
    asked = scope(headers={"origin": origin})
    if may_ask:
        access.check(asked)
    else:
        assert refused(access, asked) == "forbidden"


# Through the application


def served(access: Access | None = None, **limits: Any) -> Served:
    given = HttpLimits(first_event_s=PATIENCE_S, **limits)
    return Served(script("Hi."), limits=given, options={"access": access or Access(ApiKeys())})


def test_people_share_nothing() -> None:
    async def work(client: Client) -> list[int]:
        cached = []
        for key in (ANN, ANN, BOB):
            answer = await client.post(CHAT, BODY, headers={"x-api-key": key})
            cached.append(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"])
        return cached

    first, again, other = served(Access(ApiKeys([ANN, BOB]))).run(work)
    assert first == other == 0 and again > 0


def test_a_missing_key_is_an_error_of_the_dialect_and_health_needs_none() -> None:
    async def work(client: Client) -> list[Answer]:
        return [await client.post(CHAT, BODY), await client.get("/health")]

    refusal, health = served(Access(ApiKeys([ANN]))).run(work)
    assert refusal.status == 401 and refusal.headers["www-authenticate"] == "Bearer"
    assert refusal.json["error"]["code"] == "invalid_api_key"
    assert health.status in (200, 503)


def test_a_page_that_may_ask_is_told_so_and_no_other() -> None:
    access = Access(ApiKeys([ANN]), allowed_origins=["https://app.example"])
    page = {"origin": "https://app.example"}
    key = {"x-api-key": ANN, "content-type": "application/json"}

    async def work(client: Client) -> list[Answer]:
        return [
            await client.ask(
                "OPTIONS", CHAT, headers={**page, ASKS: "x-api-key, anthropic-version"}
            ),
            await client.post(CHAT, BODY, headers={**page, **key}),
            await client.post(CHAT, BODY, headers={**page, "x-api-key": ANN}),
            await client.ask("OPTIONS", CHAT, headers={"origin": "https://evil.example"}),
            await client.post(CHAT, BODY, headers=key),
        ]

    before, answer, plain, evil, program = served(access).run(work)
    assert before.status == 204
    for one in (before, answer, plain):
        assert one.headers["access-control-allow-origin"] == "https://app.example"
    assert "anthropic-version" in before.headers["access-control-allow-headers"]
    assert answer.status == 200 and plain.status == 415 and evil.status == 403
    assert "access-control-allow-origin" not in {**evil.headers, **program.headers}


def test_whoever_asks_too_often_waits() -> None:
    async def work(client: Client) -> list[int]:
        return [(await client.get("/v1/models", client=who)).status for who in "aab"]

    assert served(requests_per_minute=1).run(work) == [200, 429, 200]


def test_whoever_guesses_keys_is_told_to_wait_and_a_right_key_is_served() -> None:
    async def work(client: Client) -> list[int]:
        keys = ("wrong-key-1", "wrong-key-2", "wrong-key-3", ANN, "wrong-key-4", ANN)
        return [(await client.get("/v1/models", headers={"x-api-key": key})).status for key in keys]

    access = Access(ApiKeys([ANN]))
    found = served(access, wrong_keys_per_minute=2).run(work)
    assert found == [401, 401, 429, 200, 429, 200]


def test_whoever_is_refused_at_the_door_is_a_line_of_the_log() -> None:
    """A program that has a wrong address or key would else leave no trace for who looks."""
    options = {"access": Access(ApiKeys([ANN])), "records": Records(lambda: 0.0)}
    served, lines = Served(script("Hi."), options=options), list[str]()
    served.app.records.on_end = lambda record: lines.append(record.line())
    key = {"authorization": f"Bearer {ANN}", "user-agent": "curl/8.1 x"}

    async def work(client: Client) -> None:
        await client.post("/chat/completions\n", BODY, headers=key)
        await client.ask("PUT", CHAT, headers=key)
        await client.post(CHAT, BODY, headers={**key, "host": "evil.example"})
        for _ in range(100):
            await client.post(CHAT, BODY)

    served.run(work)
    assert lines[:4] == [
        "#1 other curl/8.1 POST /chat/completions\\n, not_found, 0.0 s",
        f"#2 other curl/8.1 PUT {CHAT}, wrong_method, 0.0 s",
        f"#3 other curl/8.1 POST {CHAT}, forbidden, 0.0 s",
        f"#4 other 127.0.0.1 POST {CHAT}, unauthorized, 0.0 s",
    ]
    assert len(lines) == 60 and ANN not in "".join(lines)
    assert sum(served.app.records.totals.requests.values()) == 103
