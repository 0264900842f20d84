"""The site as a visitor sees it: pages fetched over HTTP."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from .context import CheckFailed, StepContext
from .files import size_text

TIMEOUT_SECONDS = 10.0
BODY_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """An answer; headers by lowercase name."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where the site answers, and what a proxy in front of it would add to each request."""

    base_url: str
    headers: Mapping[str, str]

    def fetch(self, path: str) -> Page:
        """One GET, redirects not followed. Raises `CheckFailed` if nobody answers."""
        base = urlsplit(self.base_url)
        url = urljoin(self.base_url, path)
        kind = HTTPSConnection if base.scheme == "https" else HTTPConnection
        started = time.perf_counter()
        try:
            with closing(kind(base.hostname or "", base.port, timeout=TIMEOUT_SECONDS)) as site:
                site.request("GET", path, headers=dict(self.headers))
                answer = site.getresponse()
                body = answer.read(BODY_LIMIT)
        except (OSError, HTTPException) as error:
            raise CheckFailed(
                f"{url} does not answer ({error or type(error).__name__}). Is the web process"
                " running? Its address comes from STEPSITE_BASE_URL in the worker's environment."
            ) from error
        return Page(
            url=url,
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=body,
            seconds=time.perf_counter() - started,
        )


def fetch_page(ctx: StepContext, site: Site, path: str, *, contains: str = "") -> Page:
    """The page at `path`. Raises `CheckFailed` unless it answers 200 and holds `contains`."""
    page = site.fetch(path)
    kind = page.headers.get("content-type", "no content type")
    ctx.log(
        f"{page.status} {page.url}: {size_text(len(page.body))}, {kind},"
        f" {page.seconds * 1000:.0f} ms"
    )
    if page.status != 200:
        raise CheckFailed(f"{page.url} answered {page.status}, expected was 200.")
    if contains.encode() not in page.body:
        raise CheckFailed(f"{page.url} answered, but {contains!r} is not in it.")
    return page


def fetch_file(ctx: StepContext, site: Site, path: str, original: Path) -> None:
    """Compare what the site serves at `path` with the file `original`, byte for byte."""
    page = fetch_page(ctx, site, path)
    served = hashlib.sha256(page.body).hexdigest()
    ours = hashlib.sha256(original.read_bytes()).hexdigest()
    if served != ours:
        raise CheckFailed(f"{page.url} is served with SHA-256 {served}, {original} has {ours}.")
    ctx.log(f"SHA-256 {served}: the same as the file's")


class _Links(HTMLParser):
    """Collects what a page loads: stylesheets, scripts, images."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        rel = (values.get("rel") or "").split()
        loads = tag in {"script", "img", "source"} or (
            tag == "link" and {"stylesheet", "icon", "modulepreload", "preload"} & set(rel)
        )
        if loads and (link := values.get("src") or values.get("href")):
            self.found[link] = None


def fetch_assets(ctx: StepContext, site: Site, path: str) -> int:
    """Fetch everything that the page at `path` loads from the site itself; how many files.

    Raises `CheckFailed` naming each that does not answer 200, and each on a foreign host.
    """
    page = fetch_page(ctx, site, path)
    links = _Links()
    links.feed(page.body.decode(errors="replace"))
    problems: list[str] = []
    for done, link in enumerate(links.found, start=1):
        ctx.check_cancelled()
        target = urlsplit(urljoin(page.url, link))
        if target.scheme == "data":
            continue
        if target.netloc != urlsplit(page.url).netloc:
            problems.append(f"{link} lies on another host")
            continue
        query = f"?{target.query}" if target.query else ""
        try:
            fetch_page(ctx, site, target.path + query)
        except CheckFailed as problem:
            problems.append(str(problem))
        ctx.progress(done, len(links.found))
    if problems:
        raise CheckFailed(f"{page.url} loads what is not there: {' '.join(problems)}")
    ctx.log(f"{len(links.found)} files loaded by {path}, all there")
    return len(links.found)


def check_headers(ctx: StepContext, site: Site, path: str) -> None:
    """Raise `CheckFailed` if the page at `path` lacks a header that guards the browser."""
    page = fetch_page(ctx, site, path)
    wanted = {
        "content-security-policy": "default-src",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
    }
    missing: list[str] = []
    for name, part in wanted.items():
        value = page.headers.get(name, "")
        ctx.log(f"{name}: {value or 'absent'}")
        if part.lower() not in value.lower():
            missing.append(f"{name} with {part}")
    if missing:
        raise CheckFailed(f"{page.url} lacks {', '.join(missing)}.")


def measure_answers(ctx: StepContext, site: Site, path: str, times: int) -> dict[str, float]:
    """Milliseconds {fastest, median, slowest} of `times` requests for `path`, one by one."""
    took: list[float] = []
    for _ in range(times):
        ctx.check_cancelled()
        page = site.fetch(path)
        if page.status != 200:
            raise CheckFailed(f"{page.url} answered {page.status} the {len(took) + 1}th time.")
        took.append(page.seconds * 1000)
        ctx.progress(len(took), times)
    answers = {"fastest": min(took), "median": statistics.median(took), "slowest": max(took)}
    ctx.log(f"{times} requests for {path}")
    for name, milliseconds in answers.items():
        ctx.log(f"  {name:<8} {milliseconds:7.1f} ms")
    return answers
