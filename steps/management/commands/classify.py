"""Say which steps are critical, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from steps.classifier import Classifier
from steps.models import ClassificationRule, Step
from steps.values import shown


class LineError(ValueError):
    """A line that is no question; the message says what is wrong."""


class Command(BaseCommand):
    help = (
        'Read JSON lines {"name": …, "context": {…}} from standard input and print for each '
        '{"name", "critical", "rule", "because"}, judged by the rules that are on. The category '
        'is that of the step with this name, unless the line has a "category". A line that '
        'cannot be read gives {"line", "error"}, and exit code 1 at the end.'
    )
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        classifier = Classifier(ClassificationRule.objects.specs())
        categories = dict(Step.objects.values_list("name", "category"))
        bad = 0
        for number, line in enumerate(_lines(), start=1):
            if not line.strip():
                continue
            try:
                answer = _answer(line, classifier, categories)
            except LineError as error:
                bad += 1
                answer = {"line": number, "error": str(error)}
            # ASCII only: a name may hold what the terminal cannot encode.
            self.stdout.write(json.dumps(answer))
        if bad:
            lines = "1 line" if bad == 1 else f"{bad} lines"
            raise CommandError(f"{lines} could not be read.")


def _lines() -> Iterable[bytes | str]:
    """Lines of standard input; bytes, so that one that is not UTF-8 spoils only itself."""
    return getattr(sys.stdin, "buffer", sys.stdin)


def _answer(
    line: bytes | str, classifier: Classifier, categories: dict[str, str]
) -> dict[str, Any]:
    question = _parsed(line)
    name = question.get("name")
    if not isinstance(name, str):
        raise LineError(f"The name is {shown(name)}; it must be text.")
    context = question.get("context", {})
    if not isinstance(context, dict):
        raise LineError(f"The context is {shown(context)}; it must be an object.")
    category = question.get("category", categories.get(name, ""))
    if not isinstance(category, str):
        raise LineError(f"The category is {shown(category)}; it must be text.")
    found = classifier.classify(name, category, context)
    return {
        "name": name,
        "critical": found.critical,
        "rule": found.rule.name if found.rule else None,
        "because": found.because,
    }


def _parsed(line: bytes | str) -> dict[str, Any]:
    try:
        text = line if isinstance(line, str) else line.decode("utf-8-sig")
        question = json.loads(text)
    except UnicodeDecodeError:
        raise LineError("The line is not UTF-8.") from None
    except RecursionError:
        raise LineError("The line is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise LineError(f"The line is not JSON: {error.msg} at column {error.colno}.") from None
    except ValueError as error:
        raise LineError(f"The line cannot be read: {error}.") from None
    if not isinstance(question, dict):
        raise LineError('The line is not an object like {"name": "…", "context": {}}.')
    return question
