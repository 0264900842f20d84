"""Forms of the admin: definitions as people edit them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe

from .classifier import Condition
from .json_text import JSONDecoder
from .kinds import HTTP_METHODS, KINDS
from .models import Batch, BatchStep, ClassificationRule, ConditionChoices, Step
from .permissions import definable_kinds
from .validators import sentence
from .values import json_problem, pretty, shown

_JSON_AREA = forms.Textarea(attrs={"rows": 5, "cols": 80, "spellcheck": "false"})


class JSONTextField(forms.JSONField):
    """JSON in a text area. Never fails in another way than by a validation error."""

    default_error_messages: ClassVar[dict[str, Any]] = {
        "invalid": 'This is not JSON. Text needs double quotes: "like this".'
    }
    indent: int | None = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "decoder": kwargs.get("decoder") or JSONDecoder})

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except (RecursionError, ValueError):
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            found = super().bound_data(data, initial)
        except (RecursionError, ValueError):
            return InvalidJSONInput(data)
        # What is refused is shown again as it was typed.
        return InvalidJSONInput(data) if json_problem(found) else found

    def prepare_value(self, value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, InvalidJSONInput):
            return value
        return pretty(value, self.indent)


class JSONObjectField(JSONTextField):
    """A JSON object; nothing at all stands for an empty one."""

    def to_python(self, value: Any) -> Any:
        found = super().to_python(value)
        return {} if found is None else found


class JSONLineField(JSONObjectField):
    """A JSON object in a table cell."""

    indent = None


class TextField(forms.CharField):
    """Text of several lines, whose breaks are LF however the browser sends them."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 80, "spellcheck": "false"})

    def to_python(self, value: Any) -> str:
        return _unix(super().to_python(value) or "")

    def has_changed(self, initial: Any, data: Any) -> bool:
        return _unix(initial or "") != self.to_python(data)


class StructureField(forms.Field):
    """Text that stands for a list or an object."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != (initial or self.to_python("")))
        except ValidationError:
            return True


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


class LinesField(StructureField):
    """A list of texts, one a line. What a line cannot show as it is stands in JSON quotes."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 80, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(to_line, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> list[str]:
        if isinstance(value, list):
            return value
        lines = _unix(value or "").split("\n")
        return [
            from_line(line.strip(), number)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]


class PairsField(StructureField):
    """Texts by name, one pair a line."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 80, "spellcheck": "false"})

    def __init__(self, *, separator: str, **options: Any) -> None:
        super().__init__(**options)
        self.separator = separator

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        space = "" if self.separator == "=" else " "
        return "\n".join(
            f"{name}{self.separator}{space}{to_line(text) if text else ''}"
            for name, text in value.items()
        )

    def to_python(self, value: Any) -> dict[str, str]:
        if isinstance(value, Mapping):
            return dict(value)
        pairs: dict[str, str] = {}
        lines = _unix(value or "").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, found, text = line.partition(self.separator)
            name, text = name.strip(), text.strip()
            if not found or not name:
                raise ValidationError(f"Line {number} needs a “{self.separator}” after a name.")
            if name in pairs:
                raise ValidationError(f"Line {number}: {shown(name)} is there already.")
            pairs[name] = from_line(text, number)
        return pairs


class NumbersField(StructureField):
    """Whole numbers, separated by commas."""

    widget = forms.TextInput

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> list[int]:
        if isinstance(value, list):
            return value
        words = (value or "").replace(",", " ").split()
        # Longer numbers are of no use, and int() refuses very long ones.
        if wrong := [word for word in words if not (word.isdecimal() and len(word) < 10)]:
            raise ValidationError(f"{shown(wrong[0])} is not a whole number.")
        return [int(word) for word in words]


def to_line(text: str) -> str:
    plain = text != "" and text == text.strip() and text.isprintable() and text[0] != '"'
    return text if plain else json.dumps(text, ensure_ascii=False)


def from_line(line: str, number: int) -> str:
    if not line.startswith('"'):
        return line
    try:
        text = json.loads(line)
    except ValueError:
        text = None
    if not isinstance(text, str):
        raise ValidationError(
            f"Line {number} begins with a double quote, so it must be JSON text like "
            f'"two\\nlines"; write \\" for a quote inside.'
        )
    return text


_LINES = (
    'One a line, without quotes; no shell reads it. An empty argument is "", and one with a '
    'line break, or with a space or a quote in front, is JSON text: "first\\nsecond".'
)


class StepForm(forms.ModelForm):  # type: ignore[type-arg]
    """A step by hand. Its target is shown as fields, named `<kind>_<key of the target>`."""

    user: ClassVar[AbstractBaseUser | AnonymousUser] = AnonymousUser()
    """Whose form it is; the admin sets it."""

    kind = forms.ChoiceField()
    target = JSONObjectField(
        required=False, help_text="What to run, as a JSON object that this kind understands."
    )

    command_argv = LinesField(
        label="Program and arguments",
        required=False,
        help_text=f"{_LINES} A line that is just {{name}} becomes the parameter of that name.",
    )
    command_cwd = forms.CharField(
        label="Working directory",
        required=False,
        help_text="Empty: a private, empty directory.",
    )
    command_exit_codes = NumbersField(
        label="Accepted exit codes", required=False, help_text="Such as 0, 1. Empty: only 0."
    )
    command_env = PairsField(
        separator="=",
        label="Environment",
        required=False,
        help_text="One NAME=value a line. Not for secrets: everybody who sees the step sees it.",
    )
    command_secret_env = LinesField(
        label="Secret variables",
        required=False,
        help_text=(
            "Names of secrets, one a line: TOKEN gives the command the variable TOKEN with what "
            "the worker has as STEPSITE_SECRET_TOKEN. Secrets are masked in the output."
        ),
    )
    http_url = forms.CharField(
        label="URL", required=False, widget=forms.TextInput(attrs={"size": 80})
    )
    http_method = forms.ChoiceField(
        label="Method",
        required=False,
        choices=[("", "GET (default)"), *((method, method) for method in HTTP_METHODS)],
    )
    http_headers = PairsField(
        separator=":",
        label="Headers",
        required=False,
        help_text="One “Name: value” a line. A value that is just {name} becomes that parameter.",
    )
    http_body = TextField(label="Body", required=False, strip=False)
    http_allow_private = forms.BooleanField(
        label="May reach private addresses",
        required=False,
        help_text="Such as this machine and the local network; refused otherwise.",
    )
    management_command = forms.CharField(label="Management command", required=False)
    management_args = LinesField(label="Arguments", required=False, help_text=_LINES)

    class Meta:
        model = Step
        fields = (
            "name",
            "kind",
            "category",
            "description",
            "target",
            "parameters",
            "timeout_seconds",
            "grace_seconds",
            "retry_safe",
            "attempts",
            "backoff_seconds",
            "protected",
        )
        field_classes: ClassVar[dict[str, Any]] = {"parameters": JSONObjectField}
        widgets: ClassVar[dict[str, Any]] = {
            "description": forms.Textarea(attrs={"rows": 3, "cols": 80}),
            "parameters": _JSON_AREA,
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        target = self.instance.target
        for key, name in target_fields(self.instance.kind).items():
            if isinstance(target, dict) and key in target:
                self.initial.setdefault(name, target[key])
        # Python steps come from code; one that was made otherwise may stay what it is.
        kinds = [kind for kind in definable_kinds(self.user) if kind.name != "python"]
        choices = [(kind.name, kind.label) for kind in kinds]
        if self.instance.kind and self.instance.kind not in dict(choices):
            choices.append((self.instance.kind, self.instance.kind_label))
        self.fields["kind"].choices = choices  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        kind = cleaned.get("kind", "")
        if kind in _OWN_FIELDS:
            cleaned["target"] = {
                key: value
                for key, name in target_fields(kind).items()
                if (value := self._target_value(name, cleaned)) not in ("", [], {}, False, None)
            }
        return cleaned

    def _target_value(self, name: str, cleaned: Mapping[str, Any]) -> Any:
        # What nobody touched stays as it was, down to its kind of line breaks.
        return cleaned.get(name) if name in self.changed_data else self.initial.get(name)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        names = target_fields(self.cleaned_data.get("kind", ""))
        if "target" not in self.errors or not names:
            return
        # The model complains about the target as a whole, which this form shows in parts.
        del self.errors["target"]
        for problem in self.instance.target_problems():
            name = names.get(str(problem.path[0])) if problem.path else None
            deep = len(problem.path) > 1
            if name not in self.errors:
                self.add_error(name, f"{problem}." if deep else sentence(problem.message))


_OWN_FIELDS = frozenset({"python", "command", "http", "management"})


def target_fields(kind: str) -> dict[str, str]:
    """The form's field for each key of the target; none for kinds that show it as JSON."""
    if kind not in _OWN_FIELDS:
        return {}
    return {key: f"{kind}_{key}" for key in KINDS[kind].fields}


class BatchForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Batch
        fields = "__all__"  # noqa: DJ007  (the admin's fieldsets choose)
        field_classes: ClassVar[dict[str, Any]] = {"context": JSONObjectField}
        widgets: ClassVar[dict[str, Any]] = {
            "description": forms.Textarea(attrs={"rows": 3, "cols": 80}),
            "context": _JSON_AREA,
        }


# The admin's own class for numbers is as wide as a name.
_SHORT_NUMBER = forms.NumberInput(attrs={"class": "vIntegerField"})


class EntryForm(forms.ModelForm):  # type: ignore[type-arg]
    position = forms.IntegerField(
        required=False,
        min_value=0,
        widget=_SHORT_NUMBER,
        help_text="Empty: at the end.",
    )

    class Meta:
        model = BatchStep
        fields = ("batch", "position", "step", "name", "enabled", "parameters", "timeout_seconds")
        field_classes: ClassVar[dict[str, Any]] = {"parameters": JSONLineField}
        widgets: ClassVar[dict[str, Any]] = {
            "name": forms.TextInput(attrs={"size": 20}),
            "parameters": forms.Textarea(attrs={"rows": 1, "cols": 20}),
            "timeout_seconds": forms.NumberInput(attrs={"class": "vIntegerField", "step": "any"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None:
            self.initial["position"] = None


class LoneEntryForm(EntryForm):
    """An entry that is edited apart from the others of its batch."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        batch, step = cleaned.get("batch"), cleaned.get("step")
        if batch is not None and step is not None:
            name = cleaned.get("name") or step.name
            others = batch.entries.exclude(pk=self.instance.pk).select_related("step")
            if name in {other.effective_name for other in others}:
                self.add_error("name", _taken(name))
        return cleaned


def _taken(name: str) -> str:
    return (
        f"Two entries of this batch are called {shown(name)}. Names are unique in a batch: give "
        f"one of them another."
    )


class EntryFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """The entries of a batch: names are unique, positions become 1, 2, …"""

    def clean(self) -> None:
        super().clean()
        seen: dict[str, Any] = {}
        for form in self._kept():
            entry = form.instance
            if entry.step_id is None:
                continue
            name = entry.effective_name
            if name in seen:
                form.add_error("name", _taken(name))
            seen[name] = form

    def _kept(self) -> list[Any]:
        return [
            form
            for form in self.forms
            if hasattr(form, "cleaned_data")
            and (form.instance.pk or form.has_changed())
            and not form.cleaned_data.get("DELETE")
        ]

    def save(self, commit: bool = True) -> Any:
        order = sorted(self._kept(), key=_wanted_place)
        places = {id(form.instance): place for place, form in enumerate(order, start=1)}
        for form in order:
            form.instance.position = places[id(form.instance)]
        saved = super().save(commit=commit)
        if commit:
            # The others were not edited, but may have had to move aside.
            for form in order:
                entry = form.instance
                stored = BatchStep.objects.filter(pk=entry.pk)
                stored.exclude(position=entry.position).update(position=entry.position)
        return saved


def _wanted_place(form: Any) -> tuple[float, bool]:
    """Where a form wants its entry; one that was moved to a place goes before the one there."""
    position = form.cleaned_data.get("position")
    if position is None:
        return float("inf"), True
    return position, "position" not in form.changed_data


_OPERANDS: Mapping[Condition, tuple[str, str]] = {
    Condition.NAME_EQUALS: ("Step name", "The whole name of the step, such as CreateIndexStep."),
    Condition.NAME_MATCHES: (
        "Pattern",
        "An RE2 pattern that is found anywhere in the name of the step, such as ^Create.*Step$.",
    ),
    Condition.CATEGORY_IS: ("Category", "The whole category of the step."),
    Condition.CONTEXT_TRUTHY: (
        "Context key",
        'A key of the context whose value is not null, false, 0 or "".',
    ),
    Condition.CONTEXT_EQUALS: (
        "Context key",
        "A key of the context whose value is the one below.",
    ),
    Condition.CONTEXT_LIST_NONEMPTY: (
        "Context key",
        "A key of the context whose value is a list that is not empty.",
    ),
}
"""What the operand of a rule is called for each condition, and what it means."""


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule. Its operand means something else for each condition; rule_form.js shows only that."""

    class Meta:
        model = ClassificationRule
        fields = ("position", "name", "condition", "operand", "value", "critical", "enabled")
        field_classes: ClassVar[dict[str, Any]] = {"value": JSONTextField}
        widgets: ClassVar[dict[str, Any]] = {
            "operand": forms.TextInput(attrs={"size": 80}),
            "value": forms.Textarea(attrs={"rows": 2, "cols": 80, "spellcheck": "false"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["condition"].widget.attrs["data-operands"] = json.dumps(_OPERANDS)
        self.fields["operand"].help_text = format_html_join(
            mark_safe("<br>"),
            "<b>{}</b>: {}",
            ((ConditionChoices(name).label, text) for name, (_, text) in _OPERANDS.items()),
        )
        compares = self.instance.condition == Condition.CONTEXT_EQUALS
        if self.instance.pk and compares and self.instance.value is None:
            # An empty field would look as if the rule compared with nothing.
            self.initial["value"] = InvalidJSONInput("null")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        written = str(self.data.get(self.add_prefix("value"), "")).strip()
        if cleaned.get("condition") == Condition.CONTEXT_EQUALS and not written:
            self.add_error("value", "Give the JSON value to compare with; null is one, too.")
        return cleaned
