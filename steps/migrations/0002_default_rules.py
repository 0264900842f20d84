"""The rules that a new installation begins with. From here on they are the users' own."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from steps.classifier import DEFAULT_RULES


def install(apps: Any, schema_editor: Any) -> None:
    rule = apps.get_model("steps", "ClassificationRule")
    rules = rule.objects.using(schema_editor.connection.alias)
    rules.bulk_create(rule(**spec.to_json()) for spec in DEFAULT_RULES)


class Migration(migrations.Migration):
    dependencies = [("steps", "0001_initial")]

    operations = [migrations.RunPython(install, migrations.RunPython.noop)]
