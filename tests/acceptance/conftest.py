"""A site, a browser and people for the tests that need all three."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from . import browser as browser_of_tests
from .browser import PATIENCE_MS
from .client import Client
from .gates import Gates
from .site import ADMIN, PASSWORD, Site
from .watch import Watch

GATED = "tests.acceptance.gated"
BATCHES = Path(__file__).parent / "gated" / "batches.yaml"
VIEWER, OPERATOR = "viewer", "operator"
PEOPLE = f"""
from django.contrib.auth.models import Group, User
for name, group in (({VIEWER!r}, "viewers"), ({OPERATOR!r}, "operators")):
    User.objects.create_user(name, password={PASSWORD!r}).groups.add(Group.objects.get(name=group))
"""

LONG = {
    "batches": [
        {
            "slug": "long",
            "name": "Long",
            "pool_width": 4,
            "entries": [
                {"step": "MeasureStep", "name": f"item {number:03}"} for number in range(1, 121)
            ],
        }
    ]
}
"""More steps than fit on a page. JSON is YAML."""

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> None:
    """Without a browser the tests are skipped, but never in CI."""
    if not browser_of_tests.is_there():
        message = (
            f"There is no Chromium at {browser_of_tests.CHROMIUM}: run `apt-get install chromium` "
            f"as root, or set STEPSITE_CHROMIUM."
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def site(chromium: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The whole stack, with the batches of `gated` and one person of each sort."""
    site = Site(
        tmp_path_factory.mktemp("site"),
        options=["--no-demo"],
        environment={"STEPSITE_APPS": GATED},
    )
    try:
        long = site.data / "long.yaml"
        long.write_text(json.dumps(LONG))
        commands = [
            ("load_batches", str(BATCHES), str(long)),
            ("shell", "-v", "0", "-c", PEOPLE),
        ]
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda command: site.manage(*command), commands))
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="session")
def clients(site: Site) -> dict[str, Client]:
    """Everybody, signed in."""
    names = (ADMIN, VIEWER, OPERATOR)
    with ThreadPoolExecutor() as threads:
        return dict(
            zip(
                names,
                threads.map(lambda name: Client(site.url, name, PASSWORD), names),
                strict=True,
            )
        )


@pytest.fixture
def api(clients: dict[str, Client]) -> Client:
    """The record, as the administrator reads it."""
    return clients[ADMIN]


# Not for longer: Playwright keeps an event loop running in this thread, and neither asynchronous
# tests nor Django's ORM work beside one.
@pytest.fixture(scope="module")
def browser(chromium: None) -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = browser_of_tests.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def watch() -> Watch:
    """What the browsers of a test complain about; `visit` looks at it in the end."""
    return Watch()


@pytest.fixture
def visit(site: Site, browser: Browser, clients: dict[str, Client], watch: Watch) -> Iterator[Open]:
    """`visit("runs/", name=VIEWER)`: a page of a new browser of that person, or of nobody.

    Whatever the browser complained about by the end of the test, and was not provoked, fails it.
    """
    contexts = []

    def visit(path: str = "", *, name: str | None = ADMIN, **options: Any) -> Page:
        context = browser.new_context(base_url=site.url, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        watch.follow(context)
        if name is not None:
            context.add_cookies(clients[name].cookies)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(path)
        return page

    try:
        yield visit
        for context in contexts:
            for page in context.pages:
                page.title()  # a round trip: what was said before has arrived
        assert watch.complaints == []
    finally:
        for context in contexts:
            context.close()


@pytest.fixture
def gates(tmp_path: Path, api: Client) -> Iterator[Gates]:
    """Gates of the test's own; at its end all of its runs end."""
    gates = Gates(tmp_path / "gates")
    try:
        yield gates
    finally:
        gates.open_all()
        api.post("api/cancel-all", {})


@pytest.fixture
def start(api: Client, gates: Gates) -> Callable[..., int]:
    """`start("nightly")`: trigger a run whose steps wait at `gates`; its id."""

    def start(slug: str, context: dict[str, Any] | None = None, **asked: Any) -> int:
        return api.start(slug, {**gates.context, **(context or {})}, **asked)

    return start
