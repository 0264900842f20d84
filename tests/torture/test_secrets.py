"""Secrets that steps were given appear nowhere, however the steps tell them."""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from playwright.sync_api import Browser, Page, WebSocket

from tests.acceptance.browser import PATIENCE_MS
from tests.acceptance.client import Client
from tests.processes import descendants

from .noisy_site import NoisySite
from .reading import finish, raw_log, until
from .secrets_of_tests import CANARIES

SECRETS = {name: os.fsencode(value) for name, value in CANARIES.items()}


def disguises(secret: bytes) -> set[bytes]:
    """What must be nowhere. Long ones also in part: a cut could have left half of one."""
    text = secret.decode(errors="replace")
    forms = {
        secret,
        secret.strip(),
        text.encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        json.dumps(os.fsdecode(secret))[1:-1].encode(),
        repr(text)[1:-1].encode(),
        repr(secret)[2:-1].encode(),
        quote(secret).encode(),
        quote_plus(secret).encode(),
        secret.hex().encode(),
        base64.b64encode(secret),
        base64.urlsafe_b64encode(secret),
    }
    parts = {
        form[at : at + 16]
        for form in forms
        if len(form) > 32
        for at in (0, len(form) // 2, len(form) - 16)
    }
    return {form for form in forms | parts if len(form) >= 4 and form.strip()}


def told_in(data: bytes) -> list[str]:
    """The names of the secrets that `data` tells, with the form."""
    return [
        f"{name}: {form[:60]!r} in …{data[max(0, data.find(form) - 60) : data.find(form) + 80]!r}…"
        for name, secret in SECRETS.items()
        for form in sorted(disguises(secret))
        if form in data
    ]


def environments(worker: int) -> dict[str, list[bytes]]:
    """The secrets in the environments of all processes below a worker, by command."""
    found = {}
    for pid in descendants(worker):
        with suppress(OSError):
            directory = Path(f"/proc/{pid}")
            entries = (directory / "environ").read_bytes().split(b"\0")
            values = [entry.partition(b"=")[2] for entry in entries]
            argv = (directory / "cmdline").read_bytes()
            found[argv] = [value for value in SECRETS.values() if value in values]
    return found


@pytest.mark.browser
def test_no_secret_appears_anywhere(
    site: NoisySite, api: Client, folder: Path, browser: Browser
) -> None:
    """Database, logs, answers, frames, pages, arguments; environments of other steps."""
    context = browser.new_context(base_url=site.url)
    context.set_default_timeout(PATIENCE_MS)
    frames: list[bytes] = []

    def follow(socket: WebSocket) -> None:
        socket.on(
            "framereceived",
            lambda frame: frames.append(frame.encode() if isinstance(frame, str) else frame),
        )

    try:
        context.add_cookies(api.cookies)  # type: ignore[arg-type]
        page: Page = context.new_page()
        page.on("websocket", follow)
        run_id = api.start("secrets", {"folder": str(folder)})
        page.goto(f"runs/{run_id}/")
        bystanders = ("bystander thread", "bystander process")
        until(
            lambda: (
                {status for name, status in api.statuses(run_id).items() if name not in bystanders}
                <= {"succeeded", "failed"}
            ),
            "all that has been told",
        )
        (folder / "enough").touch()
        run = finish(api, run_id)
        assert run["status"] == "partially_succeeded"
        steps = {step["name"]: step for step in api.steps(run_id)}
        logs = {name: raw_log(api, step["id"]) for name, step in steps.items()}
        pages = []
        for name in steps:
            page.locator(".step-name a").get_by_text(name, exact=True).click()
            page.locator("#log-lines .log-row").first.wait_for()
            pages.append(page.content().encode())
        page.goto(f"runs/{run_id}/")
        pages.append(page.content().encode())
    finally:
        context.close()
    for name, log in logs.items():
        assert not told_in(log), f"the output of {name}"
        if name not in bystanders:
            assert b"\xe2\x80\xa2\xe2\x80\xa2\xe2\x80\xa2" in log
    assert b"told all" in logs["tell command"]
    answers = [f"api/runs/{run_id}", f"api/runs/{run_id}/changes?after=0"]
    answers += [f"api/runs/{run_id}/results", f"runs/{run_id}/", "runs/"]
    for path in answers:
        assert not told_in(api.read(path)), path
    assert frames
    assert not told_in(b"\n".join(frames))
    assert not told_in(b"\n".join(pages))
    assert not told_in(site.log_path.read_bytes())
    assert "printed •••" in site.log
    assert "logged '•••'" in site.log
    assert not told_in(site.stored())
    assert steps["tell thread"]["status"] == "succeeded"


def test_a_secret_is_in_the_environment_of_its_own_step_alone(
    site: NoisySite, api: Client, folder: Path
) -> None:
    """A step beside one that got secrets has none; no command line has one."""
    run_id = api.start("secrets", {"folder": str(folder)})
    seen: dict[str, list[bytes]] = {}

    def both() -> bool:
        seen.update(environments(site.supervisor))
        given = [argv for argv in seen if b"tell.py" in argv]
        other = [argv for argv in seen if b"bystander" in argv]
        return bool(given and other)

    until(both, "a process of either sort")
    (folder / "enough").touch()
    finish(api, run_id)
    for argv, values in seen.items():
        assert not told_in(argv)
        if b"bystander" in argv:
            assert values == []
        if b"tell.py" in argv:
            assert len(values) == len(SECRETS)
