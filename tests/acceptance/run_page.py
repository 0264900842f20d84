"""The page of a run, in the words of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, expect

from .client import Client


class RunPage:
    def __init__(self, page: Page, run_id: int) -> None:
        self.page = page
        self.run_id = run_id

    @classmethod
    def live(cls, page: Page, run_id: int) -> RunPage:
        """The page, once its socket is open."""
        shown = cls(page, run_id)
        shown.expect_connection("open")
        return shown

    def row(self, name: str) -> Locator:
        link = self.page.locator(".step-name a").get_by_text(name, exact=True)
        return self.page.locator("#step-rows .step-row").filter(has=link)

    def cancel(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=f"Cancel {name}", exact=True)

    def expect_steps(self, **statuses: str) -> None:
        for name, status in statuses.items():
            expect(self.row(name)).to_have_attribute("data-status", status)

    def expect_run(self, word: str) -> None:
        expect(self.page.locator("#run-status")).to_have_text(word)

    def expect_connection(self, state: str) -> None:
        expect(self.page.locator("html")).to_have_attribute("data-live", state)

    def expect_record(self, api: Client) -> None:
        """The page shows exactly what is stored, and nothing is changing any more."""
        sequence = api.run(self.run_id)["sequence"]
        expect(self.page.locator("html")).to_have_attribute("data-sequence", str(sequence))
        shown = self.page.locator("#step-rows .step-row").evaluate_all(
            "rows => rows.map(row => [Number(row.dataset.stepRun), row.dataset.status])"
        )
        stored = {step["id"]: step["status"] for step in api.steps(self.run_id)}
        assert len(shown) == len(stored)
        assert dict(shown) == stored

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Whatever happens inside happens without leaving or reloading the page."""
        self.page.evaluate("window.stayed = true")
        yield
        assert self.page.evaluate("window.stayed === true"), "the page was loaded again"
