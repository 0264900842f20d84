from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from django.contrib.auth.models import User

import steps
from steps.definitions import load
from steps.models import Batch, Step
from steps.registry import registry
from steps.selection import select
from tests.fakes import FakeContext

DEMO = Path(steps.__file__).parent / "demo"


def loaded(slug: str) -> Batch:
    load((DEMO / f"{slug}.yaml").read_bytes())
    return Batch.objects.get(slug=slug)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("slug", "entries", "critical"),
    [
        (
            "maintenance",
            39,
            [
                "DeploymentCheckStep",
                "DatabaseAnalysisStep",
                "TaskQueueSnapshotStep",
                "CreateStaticManifestStep",
                "CreateBackupStep",
                "TestingBackupStep",
                "CreateArchiveStep",
                "TestingArchiveStep",
            ],
        ),
        ("pool", 300, []),
        ("failing", 22, ["CreateReportStep", "TestingFailureStep", "SendReportStep"]),
    ],
)
def test_batch_has_its_lanes(slug, entries, critical):
    """Each batch has so many entries, and the default rules make these critical, in this order."""
    selection = select(loaded(slug), {})
    assert len(selection.entries) == entries
    assert [entry.name for entry in selection.entries if entry.critical] == critical
    assert not any(entry.missing for entry in selection.entries)


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["maintenance", "pool", "failing"])
def test_loading_again_changes_nothing(slug):
    """A batch that is loaded a second time stays as it is."""
    loaded(slug)
    assert not load((DEMO / f"{slug}.yaml").read_bytes()).changed


@pytest.mark.django_db(transaction=True)
def test_python_steps_of_the_maintenance_succeed(settings, tmp_path, live_server, monkeypatch):
    """In the order of the batch, on a sound installation, each succeeds and says something."""
    settings.DATA_DIR = tmp_path
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "servestatic" not in name]
    monkeypatch.setenv("STEPSITE_BASE_URL", live_server.url)
    User.objects.create_superuser("root")
    entries = [
        entry for entry in select(loaded("maintenance"), {}).entries if entry.kind == "python"
    ]
    assert len(entries) > 25
    for entry in entries:
        ctx = FakeContext(**entry.parameters)
        registry.get(entry.step_name)(ctx)
        assert ctx.lines, entry.name
    assert len(list((tmp_path / "backups").iterdir())) == 2


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["maintenance", "pool"])
def test_commands_succeed(slug, settings):
    """Each command, with the parameters of the first entry that uses it, ends with code 0."""
    first = {}
    for entry in select(loaded(slug), {}).entries:
        if entry.kind == "command":
            first.setdefault(entry.step_name, entry)
    assert first
    for name, entry in first.items():
        texts = {f"{{{key}}}": str(value) for key, value in entry.parameters.items()}
        argv = [texts.get(part, part) for part in entry.target["argv"]]
        ended = subprocess.run(argv, capture_output=True, cwd=settings.BASE_DIR, timeout=30)
        assert ended.returncode == 0, (name, ended.stderr)


@pytest.mark.django_db
def test_programs_of_the_failing_batch_are_there():
    """All but the one that is meant to be missing."""
    loaded("failing")
    commands = Step.objects.filter(kind="command", name__in=_failing_names())
    missing = [step.name for step in commands if not shutil.which(step.target["argv"][0])]
    assert missing == ["MissingProgramStep"]


def _failing_names() -> list[str]:
    return list(Batch.objects.get(slug="failing").entries.values_list("step__name", flat=True))
