from __future__ import annotations

import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore
import pytest

from executions.engine.cancellation import CancelReason
from executions.engine.executors import http as http_module
from executions.engine.executors.call import Call
from executions.engine.executors.http import BODY_LIMIT, HttpExecutor, is_public
from executions.engine.outcomes import Outcome
from executions.engine.status import StepStatus
from tests.unit.calls import DEADLINE, Started, make_call, make_settings, output_of

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; remembers what it was asked."""

    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.requests.append((self, self.rfile.read(length)))
        self.server.arrived.set()
        answer = getattr(self, "on_" + self.path.strip("/").partition("?")[0])
        answer()

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def on_ok(self) -> None:
        self.reply(200, "grüße\n".encode("latin1"), Content_Type="text/plain; charset=latin1")

    def on_utf8(self) -> None:
        self.reply(201, "grüße\n".encode(), Content_Type="application/json")

    def on_broken(self) -> None:
        self.reply(503, b"try again", Retry_After="5", Content_Type="text/plain")

    def on_redirect(self) -> None:
        self.reply(302, Location="http://169.254.169.254/latest")

    def on_image(self) -> None:
        self.reply(200, b"\x89PNG\0\0\0", Content_Type="image/png")

    def on_large(self) -> None:
        self.reply(200, b"x" * (2 * BODY_LIMIT), Content_Type="text/plain")

    def on_silent(self) -> None:
        self.server.release.wait(DEADLINE)

    def on_slow(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"first\n")
        self.wfile.flush()
        self.server.release.wait(DEADLINE)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.address_family = family
        super().__init__(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0), Handler)
        self.requests: list[tuple[Handler, bytes]] = []
        self.arrived = threading.Event()
        self.release = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is what some tests are about


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.release.set()
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def executor(tmp_path: Path) -> HttpExecutor:
    return HttpExecutor(make_settings(tmp_path))


def address(server: Server) -> str:
    return f"127.0.0.1:{server.server_port}"


def target(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    return {"url": f"http://{address(server)}/{path}", "allow_private": True, **fields}


def request(executor: HttpExecutor, target: dict[str, Any], **fields: Any) -> tuple[Outcome, str]:
    call = make_call(target, **fields)
    outcome = executor.run(call)
    return outcome, output_of(call)


# --- Answers --------------------------------------------------------------------------------------


def test_an_answer_of_2xx_succeeds(executor: HttpExecutor, server: Server) -> None:
    """Status, headers that matter and the body are the output."""
    outcome, output = request(executor, target(server, "utf8"))
    assert (outcome.status, outcome.message) == (StepStatus.SUCCEEDED, "201 Created")
    assert output == ("201 Created\ncontent-type: application/json\ncontent-length: 8\n\ngrüße\n")


def test_the_request_is_what_the_target_says(executor: HttpExecutor, server: Server) -> None:
    """Method, headers and body arrive; a value that is exactly `{name}` is that parameter."""
    fields = {
        "method": "post",
        "headers": {"X-Level": "{level}", "X-Text": "a {level} b", "Host": "example.org"},
        "body": "{body}",
    }
    request(
        executor,
        target(server, "utf8?q={level}", **fields),
        parameters={"level": 3, "body": {"a": "ä"}},
    )
    handler, body = server.requests[0]
    assert handler.command == "POST"
    assert handler.path == "/utf8?q=%7Blevel%7D", "parameters never become part of the URL"
    assert handler.headers["X-Level"] == "3"
    assert handler.headers["X-Text"] == "a {level} b"
    assert handler.headers["Host"] == "example.org"
    assert handler.headers["User-Agent"] == "stepsite"
    assert json.loads(body) == {"a": "ä"}


def test_a_get_has_no_body_and_names_host_and_port(executor: HttpExecutor, server: Server) -> None:
    """The Host header is the URL's own."""
    request(executor, target(server, "utf8"))
    handler, _ = server.requests[0]
    assert handler.headers["Host"] == address(server)
    assert "Content-Length" not in handler.headers


def test_another_status_fails(executor: HttpExecutor, server: Server) -> None:
    """The message names status and host, the output keeps the body."""
    outcome, output = request(executor, target(server, "broken"))
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "http_status")
    assert outcome.message == f"503 Service Unavailable from {address(server)}"
    assert "retry-after: 5" in output
    assert output.endswith("\ntry again")


def test_redirects_are_not_followed(executor: HttpExecutor, server: Server) -> None:
    """A redirect fails and names where it leads."""
    outcome, _ = request(executor, target(server, "redirect"))
    assert outcome.message == (
        "302 Found: the redirect to http://169.254.169.254/latest is not followed"
    )
    assert len(server.requests) == 1


def test_a_large_body_is_cut(executor: HttpExecutor, server: Server) -> None:
    """What is over the limit is not read, and the cut is marked."""
    outcome, output = request(executor, target(server, "large"))
    assert outcome.status is StepStatus.SUCCEEDED
    assert output.endswith("\n… body cut after 1,048,576 bytes …\n")
    assert len(output) < BODY_LIMIT


def test_a_body_that_is_no_text_is_not_shown(executor: HttpExecutor, server: Server) -> None:
    """Its size is enough."""
    _, output = request(executor, target(server, "image"))
    assert output.endswith("\n\n(7 bytes that are no text)\n")


# --- Where it may go ------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2001:0:0:0:0:0:80ff:fffe",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "fc00::1",
    "fd12::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public(text: str) -> None:
    """Private, loopback, link-local, reserved, multicast, and what wraps such an address."""
    assert not is_public(text)


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(text: str) -> None:
    """Ordinary addresses may be reached."""
    assert is_public(text)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]"]
)
def test_a_private_host_is_refused_however_it_is_written(
    executor: HttpExecutor, server: Server, host: str
) -> None:
    """What counts is the address, and no connection is made."""
    outcome, _ = request(executor, {"url": f"http://{host}:{server.server_port}/utf8"})
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "address_refused")
    assert "no public address" in outcome.message
    assert server.requests == []


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:{port}", "LOCALHOST:{port}"])
def test_a_private_host_can_be_allowed(tmp_path: Path, server: Server, entry: str) -> None:
    """By name, with or without a port."""
    allowed = frozenset({entry.format(port=server.server_port)})
    executor = HttpExecutor(make_settings(tmp_path, http_allowed_hosts=allowed))
    host = "localhost" if "LOCAL" in entry else "127.0.0.1"
    outcome, _ = request(executor, {"url": f"http://{host}:{server.server_port}/utf8"})
    assert outcome.status is StepStatus.SUCCEEDED


def test_an_allowed_port_is_only_that_port(tmp_path: Path, server: Server) -> None:
    """Other services of an allowed host stay out of reach."""
    allowed = frozenset({"127.0.0.1:1", "localhost"})
    executor = HttpExecutor(make_settings(tmp_path, http_allowed_hosts=allowed))
    outcome, _ = request(executor, {"url": f"http://{address(server)}/utf8"})
    assert outcome.reason == "address_refused"


def test_the_checked_address_is_the_one_that_is_used(
    executor: HttpExecutor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its address between check and connection gains nothing."""
    answers = ["93.184.216.34", "127.0.0.1"]
    asked: list[str] = []
    reached: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), 2) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    def connect(self: object, family: int, address: Any) -> httpcore.NetworkStream:
        reached.append(address[0])
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(http_module.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(http_module._GuardedBackend, "_connect", connect)
    outcome, _ = request(executor, {"url": "http://rebinding.example/utf8"})
    assert (asked, reached) == (["rebinding.example"], ["93.184.216.34"])
    assert outcome.message == "rebinding.example: Network is unreachable"


def test_of_several_addresses_only_public_ones_are_tried(
    executor: HttpExecutor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that mixes both reaches no private address."""
    reached: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        found = ["127.0.0.1", "93.184.216.34", "10.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    def connect(self: object, family: int, address: Any) -> httpcore.NetworkStream:
        reached.append(address[0])
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(http_module.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(http_module._GuardedBackend, "_connect", connect)
    request(executor, {"url": "http://mixed.example/utf8"})
    assert reached == ["93.184.216.34"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "is no URL"),
        ("", "is no URL"),
        ("file:///etc/passwd", "is no URL that starts with http"),
        ("gopher://localhost/", "is no URL that starts with http"),
        ("//example.org/", "is no URL that starts with http"),
        ("http://", "is no URL"),
        ("http://{host}/", "{host}"),
        ("http://example.org:99999/", "is no URL"),
        ("http://user:pass@example.org/", "credentials"),
        ("http://ex" + "x" * 80 + ".org/", "is no URL"),
    ],
)
def test_what_is_no_url_fails(executor: HttpExecutor, url: str, words: str) -> None:
    """Only http and https; the message shows no password."""
    outcome, _ = request(executor, {"url": url})
    assert outcome.status is StepStatus.FAILED
    assert words in outcome.message
    assert "pass@" not in outcome.message


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
def test_a_header_cannot_smuggle_another(
    executor: HttpExecutor, server: Server, value: str
) -> None:
    """Line breaks in a parameter fail the step before anything is sent."""
    fields = target(server, "utf8", headers={"X-Level": "{level}"})
    outcome, _ = request(executor, fields, parameters={"level": value})
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "cannot_start")
    assert server.requests == []


def test_a_host_that_refuses_is_named(executor: HttpExecutor) -> None:
    """The message says who did not answer, and why."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    outcome, _ = request(
        executor, {"url": f"http://127.0.0.1:{port}/?token=private", "allow_private": True}
    )
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "http_error")
    assert outcome.message == f"127.0.0.1:{port}: Connection refused"


def test_ipv6_works(executor: HttpExecutor) -> None:
    """Addresses in brackets are reached, and named so to the server."""
    try:
        server = Server(socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://[::1]:{server.server_port}/utf8"
        outcome, _ = request(executor, {"url": url, "allow_private": True})
        assert outcome.status is StepStatus.SUCCEEDED
        assert server.requests[0][0].headers["Host"] == f"[::1]:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server behind TLS, with a certificate for localhost that the executor trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(http_module, "_tls", lambda: trusting)
    return server


def test_tls_names_the_host(executor: HttpExecutor, tls_server: Server) -> None:
    """The certificate is checked against the URL's host, not against the address."""
    port = tls_server.server_port
    outcome, _ = request(executor, {"url": f"https://localhost:{port}/utf8", "allow_private": True})
    assert outcome.status is StepStatus.SUCCEEDED
    outcome, _ = request(executor, {"url": f"https://127.0.0.1:{port}/utf8", "allow_private": True})
    assert outcome.status is StepStatus.FAILED
    assert "TLS failed" in outcome.message


def test_a_cancel_closes_a_tls_connection(executor: HttpExecutor, tls_server: Server) -> None:
    """A blocked read inside TLS returns at once."""
    url = f"https://localhost:{tls_server.server_port}/silent"
    assert_cancel_is_quick(executor, make_call({"url": url, "allow_private": True}), tls_server)


# --- Cancel ---------------------------------------------------------------------------------------


def assert_cancel_is_quick(executor: HttpExecutor, call: Call, server: Server) -> Outcome:
    started = Started(executor, call)
    assert server.arrived.wait(DEADLINE)
    begun = time.monotonic()
    call.token.cancel(CancelReason.STEP_CANCELLED)
    outcome = started.outcome()
    assert time.monotonic() - begun < 1
    assert (outcome.status, outcome.reason) == (StepStatus.CANCELLED, "step_cancelled")
    return outcome


@pytest.mark.parametrize("path", ["silent", "slow"])
def test_a_cancel_closes_the_connection(executor: HttpExecutor, server: Server, path: str) -> None:
    """Neither a server that says nothing nor one that never ends holds the step."""
    outcome = assert_cancel_is_quick(executor, make_call(target(server, path)), server)
    assert outcome.message == "cancelled; the connection was closed"


def test_a_timeout_closes_the_connection(executor: HttpExecutor, server: Server) -> None:
    """The token's reason decides the status."""
    call = make_call(target(server, "silent"), timeout_seconds=2)
    started = Started(executor, call)
    assert server.arrived.wait(DEADLINE)
    call.token.cancel(CancelReason.TIMEOUT)
    assert started.outcome().status is StepStatus.TIMED_OUT


def test_a_cancel_ends_a_connection_that_is_being_made(executor: HttpExecutor) -> None:
    """A host that does not answer at all does not hold the step either."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            call = make_call({"url": f"http://127.0.0.1:{port}/", "allow_private": True})
            started = Started(executor, call)
            begun = time.monotonic()
            timer = threading.Timer(0.1, call.token.cancel, [CancelReason.STEP_CANCELLED])
            timer.start()
            assert started.outcome().status is StepStatus.CANCELLED
            assert time.monotonic() - begun < 2
        finally:
            for filler in fillers:
                filler.close()


def test_a_cancel_does_not_wait_for_a_name_server(
    executor: HttpExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up cannot be ended, so nobody waits for it."""
    release, asked = threading.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        asked.set()
        release.wait(DEADLINE)
        raise OSError("too late")

    monkeypatch.setattr(http_module.socket, "getaddrinfo", resolve)
    call = make_call({"url": "http://slow.example/"})
    started = Started(executor, call)
    try:
        assert asked.wait(DEADLINE)
        call.token.cancel(CancelReason.STEP_CANCELLED)
        assert started.outcome().status is StepStatus.CANCELLED
    finally:
        release.set()


def test_a_token_that_fires_after_the_answer_disturbs_nobody(
    executor: HttpExecutor, server: Server
) -> None:
    """The socket is closed by then, and its number may be another's."""
    call = make_call(target(server, "utf8"))
    assert executor.run(call).status is StepStatus.SUCCEEDED
    assert call.token.cancel(CancelReason.TIMEOUT)
