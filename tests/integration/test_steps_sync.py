"""Finding steps in code, and bringing their rows in line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command

from steps import checks, discovery
from steps import registry as registry_module
from steps.discovery import discover
from steps.models import Step
from steps.registry import RegisteredStep, Registry
from steps.sync import sync_steps


def work(ctx: Any) -> None:
    """Works."""


def registered(*names: str, **facts: Any) -> Registry:
    source = Registry()
    for name in names:
        source.add(RegisteredStep(name=name, function=work, **facts))
    return source


@pytest.fixture
def apps_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes importable apps of `{"app/file.py": source}`, the only ones that are installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    into = Registry()
    monkeypatch.setattr(registry_module, "registry", into)
    before = set(sys.modules)

    def make(files: dict[str, str]) -> Registry:
        configs = []
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(source)
        for app in dict.fromkeys(name.split("/")[0] for name in files):
            configs.append(SimpleNamespace(name=app, module=import_module(app)))
        monkeypatch.setattr(discovery.apps, "get_app_configs", lambda: configs)
        return into

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


GOOD = """
from steps.registry import step

@step("{name}", category="shop")
def work(ctx):
    pass
"""


def test_discovery_imports_the_steps_of_every_app(apps_with):
    """Modules called `steps` are imported, apps without one are passed over."""
    into = apps_with(
        {
            "shop_a/steps.py": GOOD.format(name="AStep"),
            "shop_b/models.py": "",
            "shop_c/steps/__init__.py": GOOD.format(name="CStep"),
        }
    )
    discover(into)
    assert {step.name for step in into} == {"AStep", "CStep"}
    assert into.failures == {}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("from steps.registry import step\nstep('X', timeout=-1)(print)", "timeout is -1"),
    ],
)
def test_a_module_that_fails_spoils_only_itself(apps_with, caplog, trouble, reason):
    """Its error is kept and logged, what it registered before is dropped, the rest is there."""
    into = apps_with(
        {
            "shop_d/steps.py": GOOD.format(name="HalfStep") + trouble,
            "shop_e/steps.py": GOOD.format(name="WholeStep"),
        }
    )
    with caplog.at_level(logging.ERROR, "steps"):
        discover(into)
    assert {step.name for step in into} == ({"WholeStep"})
    assert list(into.failures) == ["shop_d.steps"]
    assert reason in into.failures["shop_d.steps"]
    assert "Could not import shop_d.steps" in caplog.text


def test_a_failure_keeps_what_other_modules_registered(apps_with):
    """A module that imports another app's steps and then fails does not take them with it."""
    into = apps_with(
        {
            "shop_f/steps.py": "import shop_g.steps\n1 / 0",
            "shop_g/steps.py": GOOD.format(name="GStep"),
        }
    )
    discover(into)
    assert {step.name for step in into} == {"GStep"}


def test_a_duplicate_name_fails_the_second_module(apps_with):
    """Two apps with a step of one name: the first keeps it, the error names both places."""
    into = apps_with(
        {
            "shop_h/steps.py": GOOD.format(name="SameStep"),
            "shop_i/steps.py": GOOD.format(name="SameStep"),
        }
    )
    discover(into)
    (step,) = into
    assert step.module == "shop_h.steps"
    assert "shop_h.steps, line 4" in into.failures["shop_i.steps"]
    assert "shop_i.steps, line 4" in into.failures["shop_i.steps"]


def test_a_mended_module_is_no_failure_any_more(apps_with, tmp_path):
    """Discovery forgets a failure when the module imports."""
    into = apps_with({"shop_j/steps.py": "1 / 0"})
    discover(into)
    (tmp_path / "shop_j/steps.py").write_text("# longer than before, so no stale bytecode\n")
    discover(into)
    assert into.failures == {}


def test_the_site_starts_with_a_broken_app(tmp_path):
    """`manage.py check` warns about a steps.py that raises, and succeeds."""
    app = tmp_path / "broken_shop"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "steps.py").write_text("raise RuntimeError('out of paint')")
    done = subprocess.run(
        [sys.executable, settings.BASE_DIR / "manage.py", "check"],
        env={
            **os.environ,
            "STEPSITE_APPS": "broken_shop",
            "PYTHONPATH": str(tmp_path),
            "STEPSITE_DATA": str(tmp_path / "data"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "steps.W001" in done.stderr
    assert "broken_shop.steps could not be imported" in done.stderr
    assert "RuntimeError: out of paint" in done.stderr


@pytest.mark.django_db
def test_sync_makes_a_row_of_what_the_decorator_says():
    """A new function becomes a row; its fields are those of the decorator."""
    source = registered(
        "SyncStep",
        category="search",
        description="Rebuilds.",
        timeout=30,
        grace=2,
        retry_safe=True,
        attempts=5,
        backoff=0.5,
        protected=True,
        parameters={"a": [1]},
    )
    assert sync_steps(source).created == ["SyncStep"]
    row = Step.objects.get(name="SyncStep")
    row.full_clean()
    assert (row.kind, row.from_code, row.missing, row.module) == ("python", True, False, __name__)
    assert (row.category, row.description, row.target) == ("search", "Rebuilds.", {})
    assert (row.timeout_seconds, row.grace_seconds, row.backoff_seconds) == (30, 2, 0.5)
    assert (row.retry_safe, row.attempts, row.protected) == (True, 5, True)
    assert row.parameters == {"a": [1]}


@pytest.mark.django_db
def test_sync_is_idempotent_and_follows_the_code():
    """Nothing is written without a change; a change reaches the row, also over manual edits."""
    sync_steps(registered("SyncStep", timeout=30))
    report = sync_steps(registered("SyncStep", timeout=30))
    assert (report.created, report.updated, report.clashes) == ([], [], [])
    assert sync_steps(registered("SyncStep", timeout=31)).updated == ["SyncStep"]
    Step.objects.filter(name="SyncStep").update(category="mine", timeout_seconds=5)
    sync_steps(registered("SyncStep", timeout=31))
    row = Step.objects.get(name="SyncStep")
    assert (row.category, row.timeout_seconds, row.grace_seconds) == ("", 31, 5)


@pytest.mark.django_db
def test_isolation_is_the_target_of_a_python_step():
    """The decorator decides it, and can take it back."""
    for isolation, target in (("process", {"isolation": "process"}), ("thread", {})):
        sync_steps(registered("SyncStep", isolation=isolation))
        row = Step.objects.get(name="SyncStep")
        row.full_clean()
        assert (row.target, row.is_isolated) == (target, isolation == "process")


@pytest.mark.django_db
def test_a_vanished_function_is_missing_until_it_returns():
    """Its row stays, says so, and recovers."""
    sync_steps(registered("SyncStep", "OtherStep"))
    assert "SyncStep" in sync_steps(registered("OtherStep")).missing
    row = Step.objects.get(name="SyncStep")
    assert (row.missing, row.from_code) == (True, True)
    sync_steps(registered("SyncStep", "OtherStep"))
    row.refresh_from_db()
    assert not row.missing


@pytest.mark.django_db
def test_a_row_by_hand_is_taken_over_by_its_function():
    """A Python row that waited for its function belongs to the code from then on."""
    Step.objects.create(name="WaitingStep", kind="python", category="mine")
    assert "WaitingStep" in sync_steps(registered()).missing
    sync_steps(registered("WaitingStep", category="code"))
    row = Step.objects.get(name="WaitingStep")
    assert (row.from_code, row.missing, row.category) == (True, False, "code")


@pytest.mark.django_db
def test_a_clash_leaves_the_row_alone(caplog, monkeypatch):
    """A command of the same name stays as it is; log and system check say so."""
    Step.objects.create(name="ClashStep", kind="command", target={"argv": ["true"]})
    source = registered("ClashStep")
    with caplog.at_level(logging.WARNING, "steps"):
        report = sync_steps(source)
    assert report.clashes == ["ClashStep"]
    row = Step.objects.get(name="ClashStep")
    assert (row.kind, row.from_code, row.target) == ("command", False, {"argv": ["true"]})
    assert "The step “ClashStep”" in caplog.text
    monkeypatch.setattr("steps.sync.clashes.__defaults__", (source,))
    (warning,) = checks.names_are_free(databases=["default"])
    assert (warning.id, "ClashStep" in warning.msg) == ("steps.W002", True)


@pytest.mark.django_db(transaction=True)
def test_migrating_syncs_the_registry():
    """After `migrate` every registered step has its row."""
    Step.objects.from_code().delete()
    call_command("migrate", verbosity=0)
    names = {step.name for step in registry_module.registry}
    assert names
    assert set(Step.objects.from_code().values_list("name", flat=True)) == names
