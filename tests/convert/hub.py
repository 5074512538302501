"""A hub on localhost: a folder served as huggingface.co serves a repository, and its bad days."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO, COMMIT = "somebody/V4", "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What is served, how, and what was asked: (method, path, Range) in order."""

    folder: Path
    url: str = ""
    gated: int | None = None  # 401 or 403 for everything
    missing: set[str] = field(default_factory=set)  # listed, but not there
    cuts: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before the line drops
    wrong: set[str] = field(default_factory=set)  # served with a flipped last bit
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def listing(self) -> list[dict]:
        """Every file as the tree of a repository has it; weights are large files with a hash."""
        found = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            name = path.relative_to(self.folder).as_posix()
            entry = {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            if path.suffix == ".safetensors":
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            found.append(entry)
        return found

    def info(self) -> dict:
        """The answer about the repository, with sizes."""
        siblings = []
        for one in self.listing():
            sibling = {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]}
            if "lfs" in one:
                lfs = one["lfs"]
                sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 130}
            siblings.append(sibling)
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings}

    def etag(self, name: str) -> str:
        """The hash of a large file, the object's name of a small one."""
        entry = next(one for one in self.listing() if one["path"] == name)
        return entry.get("lfs", entry)["oid"]

    def ranges(self, name: str) -> list[str | None]:
        """The Range of every GET for a file."""
        return [part for method, path, part in self.asked if method == "GET" and name in path]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[FakeHub]:
    """A hub that serves `folder` until the block ends."""
    hub = FakeHub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.hub.gated:
            gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
            self._send(self.hub.gated, b"", gated)
        elif path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/{COMMIT}"):
            self._json(self.hub.info())
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            self._json(self.hub.listing())
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            self._file(path.split(f"/resolve/{COMMIT}/")[1])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        if name in self.hub.missing or not (self.hub.folder / name).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = (self.hub.folder / name).read_bytes()
        if name in self.hub.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.hub.etag(name)}"'}
        headers["X-Linked-Size"], status, total = str(len(content)), 200, len(content)
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            content, status = content[start:], 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        cuts = self.hub.cuts.get(name, []) if self.command == "GET" else []
        self._send(status, content, headers, cuts.pop(0) if cuts else None)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        """All of it, or its first `cut` bytes and then nothing more."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        self.close_connection = cut is not None
