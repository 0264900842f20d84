"""Makes the request of an HTTP step."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore

from executions.engine.cancellation import CancelToken
from executions.engine.errors import AddressRefused, CannotStart
from executions.engine.outcomes import Outcome
from executions.engine.plan import PlannedStep

from . import verdicts
from .call import Call, ExecutorSettings
from .command import substitute

BODY_LIMIT = 1024 * 1024
"""Bytes of the answer's body that are read."""
_SHOWN_HEADERS = ("content-type", "content-length", "content-encoding", "location", "retry-after")
_TEXT_TYPES = ("json", "xml", "javascript", "x-www-form-urlencoded", "yaml")
_HEADERS = {
    "accept": ("Accept", "*/*"),
    "accept-encoding": ("Accept-Encoding", "identity"),
    "user-agent": ("User-Agent", "stepsite"),
    "connection": ("Connection", "close"),
}
_WITH_BODY = ("POST", "PUT", "PATCH")
_KEPT = "/%:=&?~#+!$,;'@()*[]"
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@cache
def _tls() -> ssl.SSLContext:
    """Loading the certificates takes longer than many a request."""
    return httpcore.default_ssl_context()


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet, also when it wraps another one."""
    return all(
        candidate.is_global
        and not candidate.is_multicast
        and not candidate.is_reserved
        and not candidate.is_unspecified
        and not getattr(candidate, "is_site_local", False)
        for candidate in _meant(ipaddress.ip_address(text))
    )


def _meant(address: Address) -> Iterator[Address]:
    """The address, and those that a router or the kernel would unpack from it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            # The way to an IPv4 address, and to nothing else.
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
            return
        for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
            if inner is not None:
                yield inner
    yield address


class _Connection(httpcore.NetworkStream):
    """A blocking socket, without timeouts: the token is what ends a wait."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._socket.recv(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._socket.sendall(buffer)
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except OSError as error:
            self._socket.close()
            raise httpcore.ConnectError(f"TLS failed: {_reason(error)}") from error
        return _Connection(wrapped)


class _GuardedBackend(httpcore.NetworkBackend):
    """Resolves a host once, refuses what is not public, and connects to the address it checked."""

    def __init__(self, token: CancelToken, *, private_allowed: bool) -> None:
        self._token = token
        self._private_allowed = private_allowed
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        """Another name of the socket, as the one in use changes hands when TLS starts."""
        token.on_cancel(self._hang_up)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        problem: Exception = OSError("no address")
        for family, address in self._resolve(host, port):
            if not self._private_allowed and not is_public(address[0]):
                problem = AddressRefused(host, address[0])
                continue
            try:
                return self._connect(family, address)
            except OSError as error:
                problem = httpcore.ConnectError(_reason(error))
        raise problem

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _resolve(self, host: str, port: int) -> list[tuple[int, Any]]:
        """Family and address of each answer. A name server may take longer than a cancel may."""
        answers: list[Any] = []
        decided = threading.Event()

        def ask() -> None:
            try:
                answers.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except Exception as error:
                answers.append(error)
            decided.set()

        self._token.on_cancel(decided.set)
        threading.Thread(target=ask, name="resolve", daemon=True).start()
        decided.wait()
        self._token.check()
        if isinstance(answers[0], Exception):
            raise httpcore.ConnectError(f"{host} cannot be resolved: {_reason(answers[0])}")
        return [(answer[0], answer[4]) for answer in answers]

    def _connect(self, family: int, address: Any) -> httpcore.NetworkStream:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.close()
            with self._lock:
                self._handle = connection.dup()
            self._token.check()
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connection.close()
            raise
        return _Connection(connection)

    def _hang_up(self) -> None:
        with self._lock, suppress(OSError):
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class HttpExecutor:
    """Makes one request; 2xx succeeds. Redirects are not followed.

    target: url; method (GET); headers; body; allow_private. A header's value or a body that is
    exactly `{name}` becomes that parameter. Status, some headers and a text body are the output.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._allowed = frozenset(host.lower() for host in settings.http_allowed_hosts)

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return step.grace_seconds

    def forecast(self, step: PlannedStep) -> str:
        if step.protected:
            return verdicts.protected(step)
        return "The connection is closed at once; what the server does with the request is its own."

    def run(self, call: Call) -> Outcome:
        try:
            if call.token.is_cancelled:
                return verdicts.unbegun(call)
            return self._request(call)
        except CannotStart as error:
            return verdicts.failed(call, "cannot_start", str(error))
        except AddressRefused as error:
            return verdicts.failed(call, "address_refused", str(error))
        except Exception as error:
            if call.token.is_cancelled:
                return verdicts.stopped(call, "the connection was closed")
            return verdicts.failed(call, "http_error", f"{_where(call)}: {_explained(error)}")
        finally:
            call.output.close()

    def _request(self, call: Call) -> Outcome:
        target = call.step.target
        url, names = _url(target.get("url"))
        headers = _headers(url, target.get("headers") or {}, call.step.parameters)
        body = substitute(str(target.get("body") or ""), call.step.parameters).encode()
        allowed = bool(target.get("allow_private")) or not self._allowed.isdisjoint(names)
        backend = _GuardedBackend(call.token, private_allowed=allowed)
        method = str(target.get("method") or "GET").upper()
        content = body if body or method in _WITH_BODY else None
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=_tls() if url.scheme == b"https" else None, network_backend=backend
                ) as pool,
                pool.stream(method, url, headers=headers, content=content) as response,
            ):
                return _answered(call, response)
        finally:
            backend.close()


def _url(text: Any) -> tuple[httpcore.URL, set[str]]:
    """What to ask for, and the names under which its host may be allowed."""
    try:
        parts = urlsplit(text if isinstance(text, str) else "")
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = (parts.hostname or "").rstrip(".")
        ascii_host = host if ":" in host else host.encode("idna").decode()
    except ValueError as error:
        raise CannotStart(f"{text!r} is no URL: {error}") from None
    if parts.scheme not in _PORTS or not ascii_host:
        raise CannotStart(f"{text!r} is no URL that starts with http:// or https://")
    if parts.username is not None:
        raise CannotStart("the URL holds a user name; put credentials into a header")
    target = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        target += "?" + quote(parts.query, safe=_KEPT)
    url = httpcore.URL(scheme=parts.scheme, host=ascii_host, port=port, target=target)
    return url, {ascii_host, _bracketed(ascii_host), f"{_bracketed(ascii_host)}:{port}"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _headers(
    url: httpcore.URL, chosen: Mapping[str, Any], parameters: Mapping[str, Any]
) -> list[tuple[str, bytes]]:
    host = _bracketed(url.host.decode())
    is_default = url.port == _PORTS[url.scheme.decode()]
    headers = {"host": ("Host", host if is_default else f"{host}:{url.port}"), **_HEADERS}
    for name, value in chosen.items():
        text = substitute(str(value), parameters)
        if any(character in text for character in "\r\n\0"):
            raise CannotStart(f"header {name!r} holds a line break or a NUL character")
        headers[name.lower()] = (name, text)
    return [(name, text.encode()) for name, text in headers.values()]


def _answered(call: Call, response: httpcore.Response) -> Outcome:
    status = _status(response)
    headers = {name.lower().decode("latin1"): value for name, value in response.headers}
    call.output.write(f"{status}\n")
    for name in _SHOWN_HEADERS:
        if name in headers:
            call.output.write(name.encode() + b": " + headers[name] + b"\n")
    _show_body(call, response, headers)
    if 200 <= response.status < 300:
        return verdicts.succeeded(call, status)
    if 300 <= response.status < 400:
        location = headers.get("location", b"").decode(errors="replace")
        return verdicts.failed(
            call, "http_status", f"{status}: the redirect to {location} is not followed"
        )
    return verdicts.failed(call, "http_status", f"{status} from {_where(call)}")


def _status(response: httpcore.Response) -> str:
    try:
        return f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        return str(response.status)


def _show_body(call: Call, response: httpcore.Response, headers: Mapping[str, bytes]) -> None:
    """Read the body up to its limit; text becomes output, anything else only its size."""
    call.output.write("\n")
    is_text = _is_text(headers)
    size = 0
    for part in response.iter_stream():
        call.token.check()
        room = BODY_LIMIT - size
        size += len(part)
        if is_text:
            call.output.write(part[:room])
        if size > BODY_LIMIT:
            call.output.write(f"\n… body cut after {BODY_LIMIT:,} bytes …\n")
            return
    if headers.keys().isdisjoint(("content-length", "transfer-encoding")):
        call.token.check()  # such a body ends when the connection does, whoever closed it
    if size and not is_text:
        call.output.write(f"({size:,} bytes that are no text)\n")


def _is_text(headers: Mapping[str, bytes]) -> bool:
    if headers.get("content-encoding", b"identity").lower() != b"identity":
        return False
    kind = headers.get("content-type", b"text/plain").decode("latin1").lower()
    return kind.startswith("text/") or any(word in kind for word in _TEXT_TYPES)


def _where(call: Call) -> str:
    """Host and port of the request, for messages; path and query may hold what is private."""
    try:
        parts = urlsplit(str(call.step.target.get("url")))
        return parts.netloc.rpartition("@")[2]
    except ValueError:
        return "the URL"


def _explained(error: Exception) -> str:
    return str(error) or type(error).__name__
