"""Who gets in, and what each may do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from .client import Client
from .conftest import VIEWER, Open
from .run_page import RunPage
from .site import ADMIN, PASSWORD
from .watch import Watch

pytestmark = pytest.mark.browser


def sign_in(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("User name").fill(ADMIN)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_a_wrong_password_is_said_and_the_right_one_leads_back(visit: Open) -> None:
    """Anonymous people are sent to sign in, told what was wrong, and led to where they wanted."""
    page = visit("runs/?status=failed", name=None)
    expect(page).to_have_url("/sign-in/?next=/runs/%3Fstatus%3Dfailed")
    sign_in(page, "not this one")
    expect(page.get_by_role("alert")).to_contain_text("Please enter a correct username")
    expect(page.get_by_label("User name")).to_have_value(ADMIN)
    expect(page.get_by_label("Password")).to_have_value("")
    sign_in(page)
    expect(page).to_have_url("/runs/?status=failed")
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()


def test_signing_out_ends_what_can_be_seen(visit: Open) -> None:
    """After signing out no page opens, not even by going back."""
    page = visit("runs/", name=None)
    sign_in(page)
    page.get_by_label(f"Account of {ADMIN}").click()
    expect(page.get_by_text(f"Signed in as {ADMIN}")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url("/sign-in/")
    page.go_back()
    expect(page).to_have_url("/sign-in/?next=/runs/")


def test_a_page_of_somebody_who_signed_out_elsewhere_says_so(
    visit: Open, start: Callable[..., int], watch: Watch
) -> None:
    """A click comes to nothing in words, and the step is shown as it is."""
    run_id = start("talking")
    page = visit("sign-in/", name=None)
    sign_in(page)
    page.goto(f"runs/{run_id}/")
    run = RunPage.live(page, run_id)
    run.expect_steps(TalkingStep="running")
    other = page.context.new_page()
    other.goto("")
    other.get_by_label(f"Account of {ADMIN}").click()
    other.get_by_role("button", name="Sign out").click()
    expect(other).to_have_url("/sign-in/")
    watch.provoke(r"/api/step-runs/\d+/cancel.* 401", r"status of 401 .*/api/step-runs/")
    run.cancel("TalkingStep").click()
    expect(page.get_by_role("alert")).to_contain_text("“TalkingStep” was not cancelled.")
    run.expect_steps(TalkingStep="running")


def test_a_viewer_sees_everything_and_changes_nothing(
    visit: Open, start: Callable[..., int], api: Client, watch: Watch
) -> None:
    """There are no buttons to start or cancel, and a forged form is refused."""
    run_id = start("talking")
    page = visit("batches/nightly/", name=VIEWER)
    expect(page.locator("#plan-critical li")).to_have_count(2)
    expect(page.get_by_text("You may look at plans, not start runs.")).to_be_visible()
    expect(page.get_by_role("button", name="Start this run")).to_have_count(0)
    expect(page.get_by_label("CreateIndexStep")).to_be_disabled()

    page.goto("")
    card = page.locator(f'.run-card[data-run="{run_id}"]')
    expect(card).to_be_visible()
    expect(card.get_by_role("link", name="Cancel")).to_have_count(0)

    page.goto(f"runs/{run_id}/")
    run = RunPage.live(page, run_id)
    run.expect_steps(TalkingStep="running")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.get_by_role("link", name="Run again")).to_have_count(0)

    watch.provoke(r"POST \S+/cancel/? 403", r"POST \S+/batches/nightly/ 403", "status of 403 ")
    step_id = api.steps(run_id)[0]["id"]
    for path in (
        f"/runs/{run_id}/cancel/",
        f"/step-runs/{step_id}/cancel/",
        f"/api/runs/{run_id}/cancel",
        f"/api/step-runs/{step_id}/cancel",
        "/batches/nightly/",
    ):
        assert forge(page, path) == 403, path
    assert api.statuses(run_id) == {"TalkingStep": "running"}
    assert api.run(run_id)["cancel_requested_at"] is None


def forge(page: Page, path: str) -> int:
    """The answer to a form that the page does not have, sent from it with its token."""
    answer: int = page.evaluate(
        """async (path) => {
            const token = document.querySelector('meta[name="csrf-token"]').content;
            const headers = { "X-CSRFToken": token };
            return (await fetch(path, { method: "POST", headers, body: "{}" })).status;
        }""",
        path,
    )
    return answer
