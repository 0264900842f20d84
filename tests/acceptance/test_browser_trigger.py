"""From a batch to a run: the plan, what changes it, and the start."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .client import Client
from .conftest import OPERATOR, Open
from .gates import Gates
from .run_page import RunPage
from .watch import Watch

pytestmark = pytest.mark.browser

MARKUP_NAMES = [
    "MarkupStep",
    "<script>window.broken = 'name'</script>",
    '<img src=x onerror="window.broken = 1">',
    "&lt;b&gt; \"quoted\" 'twice' {{ name }}",
]


def lane(page: Page, name: str) -> Locator:
    """Names of the planned steps of a lane, in their order."""
    return page.locator(f"#plan-{name} .planned-name")


def reason(page: Page, step: str) -> Locator:
    return page.locator(f'.planned-step[data-name="{step}"] .planned-because')


def context_of(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Context")


def expect_current(page: Page) -> None:
    expect(page.locator("#plan")).to_have_attribute("data-state", "current")


def expect_run_page(page: Page) -> int:
    """The page of a run has opened; its id."""
    expect(page).to_have_url(re.compile(r"/runs/\d+/$"))
    return int(page.url.rstrip("/").rpartition("/")[2])


def test_the_plan_follows_the_context_and_gives_reasons(visit: Open) -> None:
    """Both lanes are there before anything starts, and follow what is typed."""
    page = visit("batches/nightly/", name=OPERATOR)
    expect(lane(page, "critical")).to_have_text(["CreateIndexStep", "SendDigestStep"])
    expect(lane(page, "pool")).to_have_text(["WarmCacheStep", "PruneStep", "MeasureStep"])
    expect(reason(page, "CreateIndexStep")).to_have_text(
        'Rule 16 “Create steps”: the name matches "Create.*Step$"'
    )
    expect(reason(page, "PruneStep")).to_have_text("No rule matched")

    context_of(page).fill('{"workflow_id": 7}')
    expect(lane(page, "critical")).to_have_count(5)
    expect(lane(page, "pool")).to_have_count(0)
    expect(page.get_by_text("Every step is critical.")).to_be_visible()
    expect(reason(page, "PruneStep")).to_contain_text("workflow_id")
    expect_current(page)

    context_of(page).fill('{"workflow_id": 0}')
    expect(lane(page, "critical")).to_have_text(["CreateIndexStep", "SendDigestStep"])


def test_what_is_not_chosen_is_not_planned(visit: Open) -> None:
    """Boxes and options take part in the plan; without any entry there is none to start."""
    page = visit("batches/nightly/", name=OPERATOR)
    page.get_by_label("SendDigestStep").uncheck()
    expect(lane(page, "critical")).to_have_text(["CreateIndexStep"])
    page.get_by_label("Pool width").fill("3")
    page.get_by_label("The pool starts").select_option("beside the critical lane")
    expect(page.locator("#plan-lanes")).to_contain_text("3 side by side, beside the critical lane")
    page.get_by_role("button", name="None", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="There is no plan")).to_be_visible()
    expect(page.get_by_role("button", name="Start this run")).to_be_disabled()
    page.get_by_role("button", name="All", exact=True).click()
    expect_current(page)
    expect(lane(page, "critical")).to_have_count(2)


@pytest.mark.parametrize(
    ("role", "label", "value", "complaint"),
    [
        ("textbox", "Context", "[1, 2]", "must be an object"),
        ("textbox", "Context", '{"a": ', "This is not JSON"),
        ("spinbutton", "Pool width", "0", "1"),
        ("spinbutton", "Default timeout, seconds", "-5", "0"),
    ],
)
def test_bad_input_is_said_beside_its_field(
    visit: Open, watch: Watch, role: Any, label: str, value: str, complaint: str
) -> None:
    """A plan that cannot be made cannot be started, and the field says why."""
    watch.provoke(r"/api/plan.* 400", r"status of 400 .*/api/plan")
    page = visit("batches/nightly/", name=OPERATOR)
    field = page.get_by_role(role, name=label)
    good = field.input_value()
    field.fill(value)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".field").filter(has=field).locator(".errors")).to_contain_text(complaint)
    expect(page.get_by_role("button", name="Start this run")).to_be_disabled()
    field.fill(good)
    expect(page.get_by_role("button", name="Start this run")).to_be_enabled()
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_starting_runs_what_was_shown(visit: Open, api: Client, gates: Gates) -> None:
    """The run that the button starts is the plan beside it, and its page opens."""
    page = visit("batches/nightly/", name=OPERATOR)
    context = {**gates.context, "note": "<b>1.0 is kept</b>", "number": 1.0}
    page.get_by_label("MeasureStep").uncheck()
    context_of(page).fill(json.dumps(context))
    expect(lane(page, "pool")).to_have_text(["WarmCacheStep", "PruneStep"])
    expect_current(page)
    planned = page.locator("#plan-hash").input_value()
    # Leaving the field for the button must not make the plan stale again.
    page.get_by_role("button", name="Start this run").click()
    run = RunPage.live(page, expect_run_page(page))
    run.expect_run("Running")
    steps = api.steps(run.run_id)
    assert [step["name"] for step in steps] == [
        "CreateIndexStep",
        "SendDigestStep",
        "WarmCacheStep",
        "PruneStep",
    ]
    assert api.run(run.run_id)["triggered_by"] == OPERATOR
    page.get_by_role("link", name="Run again").click()
    expect(page.get_by_label("MeasureStep")).not_to_be_checked()
    expect_current(page)
    expect(page.locator("#plan-hash")).to_have_value(planned)


def test_a_rule_that_changed_meanwhile_shows_the_new_plan(
    visit: Open, api: Client, watch: Watch
) -> None:
    """Nothing starts that was not seen: what differs is said, and then it can be started."""
    watch.provoke(r"POST \S+/batches/nightly/ 409", r"status of 409 .*/batches/nightly/")
    page = visit("batches/nightly/")
    expect(lane(page, "pool")).to_have_text(["WarmCacheStep", "PruneStep", "MeasureStep"])
    before = len(api.get("api/runs?batch=nightly")["runs"])

    admin = page.context.new_page()
    admin.goto("admin/steps/classificationrule/add/")
    admin.get_by_label("Name").fill("Caches come first")
    admin.get_by_label("Position").fill("1")
    admin.get_by_label("Condition").select_option("name_equals")
    admin.get_by_label("Step name").fill("WarmCacheStep")
    admin.get_by_label("Critical").check()
    admin.get_by_role("button", name="Save", exact=True).click()
    expect(admin.get_by_text("was added successfully")).to_be_visible()
    try:
        page.get_by_role("button", name="Start this run").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was started.")
        # What moves comes before what merely has another reason.
        expect(page.locator("#plan-changed li").first).to_contain_text(
            "WarmCacheStep moves to the critical lane: Rule 1 “Caches come first”"
        )
        expect(lane(page, "critical")).to_have_text(
            ["CreateIndexStep", "SendDigestStep", "WarmCacheStep"]
        )
        assert len(api.get("api/runs?batch=nightly")["runs"]) == before
        page.get_by_role("button", name="Start this run").click()
        run = RunPage(page, expect_run_page(page))
        run.expect_run("Succeeded")
        lanes = {step["name"]: step["lane"] for step in api.steps(run.run_id)}
        assert lanes["WarmCacheStep"] == "critical"
    finally:
        admin.goto("admin/steps/classificationrule/")
        admin.get_by_role("link", name="Caches come first").click()
        admin.get_by_role("link", name="Delete").click()
        admin.get_by_role("button", name="Yes").click()
        expect(admin.get_by_text("was deleted successfully")).to_be_visible()


def test_markup_in_names_and_output_is_text(visit: Open, api: Client, gates: Gates) -> None:
    """Nothing that people or steps write is ever read as HTML, on any page."""
    page = visit("batches/markup/", name=OPERATOR)
    expect(page.get_by_role("heading", level=1)).to_have_text('<i>Markup</i> & "quotes"')
    expect(lane(page, "pool")).to_have_text(MARKUP_NAMES)
    context_of(page).fill(json.dumps(gates.context))
    expect_current(page)
    expect(lane(page, "pool")).to_have_text(MARKUP_NAMES)
    page.get_by_role("button", name="Start this run").click()

    run = RunPage.live(page, expect_run_page(page))
    run.row("MarkupStep").get_by_role("link").click()
    expect(page.locator("#log-lines")).to_contain_text("<script>window.broken = 'output'</script>")
    expect(page.locator("#log-lines")).to_contain_text("&amp; red")
    for name in MARKUP_NAMES[1:]:
        expect(run.row(name)).to_have_attribute("data-status", "succeeded")
    gates.open_all()
    run.expect_run("Partially succeeded")
    expect(page.locator("#log-message")).to_contain_text("<b onclick=alert(1)>failed</b>")
    expect(page.locator("#verdict-body")).to_contain_text("<b onclick=alert(1)>failed</b>")
    untouched(page)
    for path in ("", "batches/", "steps/", "runs/?q=<script>window.broken = 1</script>"):
        page.goto(path)
        untouched(page)
    page.goto("")
    expect(page.locator(".attention")).to_contain_text("<b onclick=alert(1)>failed</b>")


def untouched(page: Page) -> None:
    """No script of a step or a name has run."""
    assert page.evaluate("window.broken === undefined"), page.url


def test_without_scripts_a_run_is_previewed_and_started(
    visit: Open, api: Client, gates: Gates
) -> None:
    """Preview and start are plain forms; a bad context comes back with what was typed."""
    page = visit("batches/nightly/", name=OPERATOR, java_script_enabled=False)
    context_of(page).fill('{"workflow_id": ')
    page.get_by_role("button", name="Show the plan again").click()
    expect(page.locator("#context-error")).to_contain_text("This is not JSON")
    expect(context_of(page)).to_have_value('{"workflow_id": ')

    context_of(page).fill(json.dumps({"workflow_id": "w", **gates.context}))
    page.get_by_label("MeasureStep").uncheck()
    page.get_by_role("button", name="Show the plan again").click()
    expect(lane(page, "critical")).to_have_count(4)
    page.get_by_role("button", name="Start this run").click()
    run_id = expect_run_page(page)
    assert len(api.steps(run_id)) == 4
    expect(page.locator("#step-rows .step-row")).to_have_count(4)
