"""Who may ask: by key, by the name this machine was asked as, and by the page that asks.

A web page anywhere may send requests to a server on this machine, and with a name of its own that
leads here even read the answers. So the name in `Host` has to be this machine's, and a request
that a page sends says so in `Origin` and is refused unless that page is ours or was allowed.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.serve.faults import RequestFault
from cli.serve.http_answers import Headers, Scope, header
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, shown

_MOST_KEY_BYTES: Final = 1 << 20
_LEAST_KEY: Final = 8
_PAGE_HEADERS: Final = "authorization, content-type, x-api-key"
_ORIGIN: Final = re.compile(r"null|[a-z][a-z0-9+.-]*://[^\s/?#A-Z]+")
OPEN_PATHS: Final = ("/", "/health", "/debug")
"""What is told to those without a key: that it is there, whether it works, an empty page."""


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's for itself alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class ApiKeys:
    """The keys of a server, each of which is a person; none where everybody may ask."""

    def __init__(self, keys: Collection[str] = ()) -> None:
        self._digests = {_digest(key): owner_of(key) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def owners(self) -> tuple[str, ...]:
        """Everybody who may ask; nobody in particular where there are no keys."""
        return tuple(self._digests.values()) or ("",)

    def owner(self, key: str | None) -> str | None:
        """Whose key it is, None for nobody's. It takes as long whatever the key is."""
        given, found = _digest(key or ""), None
        for digest, owner in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = owner
        return found if key else None


def owner_of(key: str) -> str:
    """The name of the person with a key, from which nobody finds the key."""
    return hashlib.blake2b(key.encode(), digest_size=16, person=b"dsv4-owner").hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def read_keys(file: Path | None, variable: str | None) -> ApiKeys:
    """The keys in a file, one in a line, and the one of the environment; UsageError for a file
    that has none, or for a key that is too short to be one."""
    keys = [variable] if variable else []
    if file is not None:
        try:
            text = content_of(file, _MOST_KEY_BYTES).decode("ascii")
        except OSError as error:
            raise UsageError(f"--api-key-file {file}: {error.strerror}.") from error
        except (DocumentError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {file} holds no keys in ASCII: {error}.") from error
        found = [line.strip() for line in text.splitlines()]
        keys += [line for line in found if line and not line.startswith("#")]
        if not keys:
            raise UsageError(f"--api-key-file {file} holds no key; write one in each line.")
    if any(len(key) < _LEAST_KEY or " " in key for key in keys):
        raise UsageError(
            f"a key has at least {_LEAST_KEY} letters and no spaces; "
            "`openssl rand -hex 24` makes one."
        )
    return ApiKeys(keys)


@dataclass(frozen=True)
class Access:
    """Who may ask one server."""

    keys: ApiKeys
    host: str = "127.0.0.1"
    """The address it listens at."""
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.keys:
            raise UsageError(
                f"--host {self.host} lets other machines ask, which takes a key: "
                "give --api-key-file PATH or DSV4_API_KEY."
            )
        wrong = [one for one in self.allowed_origins if not _ORIGIN.fullmatch(one)]
        if wrong:
            raise UsageError(
                "--allow-origin takes what a browser sends, SCHEME://HOST[:PORT] in small letters "
                f"and without a path, or null, got {wrong[0]!r}."
            )

    def check(self, scope: Scope) -> str:
        """Who asks, as `GenerationRequest.owner`; RequestFault for whoever may not."""
        self._check_host(scope)
        self._check_origin(scope)
        # A browser asks with OPTIONS whether it may ask, and has no key for that.
        if not self.keys or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return ""
        given = _key(scope)
        owner = self.keys.owner(given)
        if owner is None:
            raise RequestFault(
                "unauthorized",
                "The key that was sent is none of this server's; ask whoever started it."
                if given
                else "A key is needed here: as Authorization: Bearer KEY or x-api-key.",
            )
        return owner

    def _check_host(self, scope: Scope) -> None:
        given = header(scope, b"host")
        name = "" if given is None else name_in(given)
        if not self._is_ours(name):
            raise RequestFault(
                "forbidden",
                f"This machine is not called {shown(name)}; --allow-host lets it be.",
            )

    def _is_ours(self, name: str) -> bool:
        if is_loopback(name) or name in {one.lower() for one in (*self.allowed_hosts, self.host)}:
            return True
        if is_loopback(self.host):
            return False
        own = socket.gethostname().lower()
        return _is_address(name) or name in (own, f"{own}.local")

    def _check_origin(self, scope: Scope) -> None:
        origin = _origin(scope)
        if origin is None or origin in self.allowed_origins:
            return
        # A page of this server itself: Host was found to be ours.
        if origin in (f"http://{header(scope, b'host')}", f"https://{header(scope, b'host')}"):
            return
        raise RequestFault(
            "forbidden", f"Pages of {shown(origin)} may not ask; --allow-origin lets them."
        )

    def cors(self, scope: Scope) -> Headers:
        """What a browser wants to hear before it lets an allowed page read the answer."""
        origin = _origin(scope)
        if origin is None or origin not in self.allowed_origins:
            return []
        asked = header(scope, b"access-control-request-headers") or _PAGE_HEADERS
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", asked.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"vary", b"origin"),
        ]


def check_type(scope: Scope) -> None:
    """RequestFault for a page's request whose body is not JSON: browsers send others unasked."""
    kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if _origin(scope) is not None and scope["method"] == "POST" and kind != "application/json":
        raise RequestFault(
            "wrong_type", f"The content-type must be application/json, got {shown(kind)}."
        )


def _origin(scope: Scope) -> str | None:
    given = [value for key, value in scope["headers"] if key == b"origin"]
    return b" ".join(given).decode("latin-1") if given else None


def name_in(host: str) -> str:
    """The name of a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _key(scope: Scope) -> str | None:
    given = header(scope, b"authorization") or ""
    kind, _, key = given.partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    return header(scope, b"x-api-key")
