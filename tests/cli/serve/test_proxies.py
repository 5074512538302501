"""What docs/server.md says of proxies and services, read by those programs themselves."""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.serve.service_unit import service_unit
from tests.cli.serve.test_socket import BODY, CHAT, PATIENCE_S, Program, running

PAGE = Path(__file__).parents[3] / "docs" / "server.md"
NAME = "llm.example.org"
KEY = "a-key-for-tests"
HOUR_MS = 3_600_000
SCRIPT: dict[str, Any] = {
    "replies": [
        {"text": "One word more. ", "repeat": 20_000, "delay_ms": 20},
        {"text": "One word more. ", "delay_ms": HOUR_MS},
    ]
}
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:" + (os.environ.get("PATH", "")))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def block(beginning: str) -> str:
    """The configuration on the page that begins so."""
    found = re.search(rf"```\w*\n({re.escape(beginning)}.*?)```", PAGE.read_text("utf-8"), re.S)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Tls:
    """A certificate for the name of the page, and requests to a proxy that has it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.certificate, self.key = folder / "llm.pem", folder / "llm.key"
        subprocess.run(
            [
                *(
                    program("openssl"),
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                ),
                *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
                *("-keyout", self.key, "-out", self.certificate),
            ],
            check=True,
            capture_output=True,
        )
        self.key.chmod(0o644)  # a worker of nginx is nobody

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        context = ssl.create_default_context(cafile=str(self.certificate))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection = http.client.HTTPConnection(NAME, timeout=PATIENCE_S)
        connection.sock = context.wrap_socket(plain, server_hostname=NAME)
        told = {"x-api-key": KEY, "content-type": "application/json", **headers}
        connection.request(method, path, None if body is None else json.dumps(body), told)
        return connection, connection.getresponse()

    def get(self, **headers: str) -> tuple[int, bytes]:
        """What the list of models is answered with."""
        connection, answer = self.ask("GET", "/v1/models", **headers)
        try:
            return answer.status, answer.read()
        finally:
            connection.close()


def nginx_configuration(tls: Tls, port: int) -> Path:
    """The page's block, with paths and ports of a test, in the least that goes around it."""
    server = block("server {")
    for there, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{tls.port} ssl",
        "/etc/ssl/llm.pem": str(tls.certificate),
        "/etc/ssl/llm.key": str(tls.key),
        "http://127.0.0.1:8642": f"http://127.0.0.1:{port}",
    }.items():
        assert there in server
        server = server.replace(there, here)
    paths = "".join(f"{name}_temp_path {tls.folder}/{name};" for name in TEMPORARY)
    file = tls.folder / "nginx.conf"
    file.write_text(
        f"pid {tls.folder}/pid; error_log {tls.folder}/errors; events {{}}\n"
        f"http {{ access_log off; {paths}\n{server}}}\n",
        encoding="utf-8",
    )
    return file


@contextmanager
def nginx(tls: Tls, port: int) -> Iterator[None]:
    command = [program("nginx"), "-c", str(nginx_configuration(tls, port))]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert tested.returncode == 0 and "warn" not in tested.stderr, tested.stderr
    subprocess.run(command, check=True, timeout=PATIENCE_S)  # it listens when this returns
    try:
        yield
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, timeout=PATIENCE_S)


@contextmanager
def caddy(tls: Tls, port: int) -> Iterator[None]:
    site = block(f"{NAME} {{").replace("127.0.0.1:8642", f"127.0.0.1:{port}")
    head, rest = site.split("{\n", 1)
    file = tls.folder / "Caddyfile"
    file.write_text(
        "{\n admin off\n auto_https disable_redirects\n}\n"
        f"https://{head.strip()}:{tls.port} {{\n    tls {tls.certificate} {tls.key}\n{rest}",
        encoding="utf-8",
    )
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]
    kept = {name: str(tls.folder) for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    environment = {**os.environ, **kept}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        said = before = ""
        while "serving initial configuration" not in said:
            said = process.stderr.readline()
            assert said, before
            before = said
        yield
    finally:
        process.kill()  # which waits for no stream
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_as_the_page_has_it_passes_each_frame_on_and_serves_whom_it_may(
    proxy: Any, tmp_path: Path
) -> None:
    program(proxy.__name__)
    keys = tmp_path / "keys"
    keys.write_text(KEY, encoding="utf-8")
    options = ("--api-key-file", str(keys), "--allow-host", NAME)
    tls = Tls(tmp_path)
    with running(tmp_path, *options, script=SCRIPT) as served, proxy(tls, served.port):
        assert tls.get()[0] == 200
        assert tls.get(**{"x-api-key": "another-key"})[0] == 401
        assert tls.get(origin=f"https://{NAME}")[0] == 200
        assert tls.get(origin="https://evil.example")[0] == 403
        status, body = tls.get(host="evil.example")
        assert b"scripted" not in body and (status == 403 or proxy is caddy)
        a_client_that_leaves_ends_its_request(served, tls)
        a_frame_arrives_before_there_is_another(tls)


def a_client_that_leaves_ends_its_request(served: Program, tls: Tls) -> None:
    connection, answer = tls.ask("POST", CHAT, {**BODY, "stream": True})
    while b'"content":"' not in answer.readline():
        pass
    answer.close()
    connection.close()
    assert served.process.stderr is not None
    # Whoever was refused before has a line as well.
    assert any(", cancelled, " in line for line in served.process.stderr)


def a_frame_arrives_before_there_is_another(tls: Tls) -> None:
    """The second turn of the script has its first token after an hour."""
    messages = [*BODY["messages"], {"role": "assistant", "content": "Hi."}, *BODY["messages"]]
    connection, answer = tls.ask("POST", CHAT, {"messages": messages, "stream": True})
    assert b'"role":"assistant"' in answer.readline()
    answer.close()
    connection.close()


def test_systemd_takes_the_unit_that_is_printed(tmp_path: Path) -> None:
    verify = [program("systemd-analyze"), "verify"]
    words = ["serve", "--model", "a folder/$HOME 100%", "--api-key-file", 'k"ey\\s']
    unit = service_unit(
        "systemd",
        words,
        program=("/bin/sh",),
        variables={"DSV4_HOME": "/data/my dsv4 $x %h"},
        folder=tmp_path,
        home=Path("/"),
    )
    file = tmp_path / "dsv4-chat.service"
    file.write_text(unit.text, encoding="utf-8")
    ran = subprocess.run([*verify, file], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stderr) == (0, "")
