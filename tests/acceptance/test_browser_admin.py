"""Definitions are made in the admin, in a browser that runs nothing but the site's own files."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from .client import Client
from .conftest import Open
from .run_page import RunPage

pytestmark = pytest.mark.browser

LISTS = (
    "steps/step",
    "steps/batch",
    "steps/batchstep",
    "steps/classificationrule",
    "steps/ruleset",
    "executions/run",
    "executions/auditentry",
    "executions/worker",
    "auth/user",
    "auth/group",
)


def test_every_list_and_form_opens(visit: Open) -> None:
    """None of them asks for anything that the content security policy refuses."""
    page = visit("admin/")
    for name in LISTS:
        page.goto(f"admin/{name}/")
        expect(page.locator("#changelist-form, #changelist")).not_to_have_count(0)
        if page.locator(".object-tools .addlink").count():
            page.goto(f"admin/{name}/add/")
        elif page.locator("#result_list tbody th a").count():
            page.locator("#result_list tbody th a").first.click()
        expect(page.locator("form")).not_to_have_count(0)


def save(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text("successfully")


def test_a_step_and_a_batch_are_defined_and_run(visit: Open, api: Client) -> None:
    """The form asks for what the kind needs; a batch takes the new step, and it runs."""
    page = visit("admin/steps/step/add/")
    page.get_by_label("Name").fill("GreetStep")
    page.get_by_label("Kind").select_option("http")
    expect(page.get_by_role("textbox", name="URL")).to_be_visible()
    page.get_by_label("Kind").select_option("command")
    expect(page.get_by_role("textbox", name="URL")).to_be_hidden()
    page.get_by_role("textbox", name="Program and arguments").fill("echo\nhello you")
    save(page)

    page.goto("admin/steps/batch/add/")
    page.get_by_label("Name").first.press_sequentially("Greetings")
    expect(page.get_by_label("Slug")).to_have_value("greetings")
    page.locator(".add-row a").click()
    page.locator(".field-step .select2-selection").first.click()
    page.locator(".select2-search__field").fill("Greet")
    page.locator(".select2-results__option", has_text="GreetStep").click()
    save(page)

    page.goto("batches/greetings/")
    page.get_by_role("button", name="Start this run").click()
    run = RunPage(page, 0)
    run.expect_run("Succeeded")
    run.row("GreetStep").get_by_role("link").click()
    expect(page.locator("#log-lines")).to_have_text("hello you")


def test_the_entries_of_a_batch_fit_on_the_screen(visit: Open) -> None:
    """Nothing lies outside a window of 1280 px."""
    page = visit("admin/steps/batch/add/", viewport={"width": 1280, "height": 900})
    page.locator(".add-row a").click()
    expect(page.locator("tr.dynamic-entries").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_form_of_a_rule_follows_its_condition(visit: Open) -> None:
    """The operand is called what it is; a value is asked for only where it means something."""
    page = visit("admin/steps/classificationrule/add/")
    value = page.get_by_label("Value")
    help_text = page.locator(".field-operand .help")
    expect(help_text).to_contain_text("name equals: The whole name of the step")
    page.get_by_label("Condition").select_option("name_matches")
    expect(page.get_by_label("Pattern")).to_be_visible()
    expect(help_text).to_have_text(re.compile(r"^\s*An RE2 pattern that is found anywhere"))
    expect(value).to_be_hidden()
    page.get_by_label("Condition").select_option("context_equals")
    expect(page.get_by_label("Context key")).to_be_visible()
    value.fill('"yes"')
    page.get_by_label("Condition").select_option("context_truthy")
    page.get_by_label("Name").fill("Left a value behind")
    page.get_by_label("Context key").fill("flag")
    page.get_by_role("button", name="Save", exact=True).click()
    # What is wrong is never hidden.
    expect(page.locator(".field-value .errorlist")).to_be_visible()
    expect(value).to_have_value('"yes"')

    plain = visit("admin/steps/classificationrule/add/", java_script_enabled=False)
    expect(plain.get_by_label("Value")).to_be_visible()
    expect(plain.locator(".field-operand .help")).to_contain_text("category is: The whole")
