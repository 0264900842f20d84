"""What can be run and how it is classified: fields, constraints and named queries."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Func, OuterRef, Q, Subquery

from . import validators, values
from .classifier import Classifier, Condition, RuleSpec, pattern_problem, rules_hash
from .fields import ObjectField
from .kinds import KINDS, Problem


class FailurePolicy(models.TextChoices):
    """What a miss in the critical lane prevents."""

    CONTINUE = "continue", "continue: every step gets its turn"
    STOP_CRITICAL = "stop_critical", "stop critical: skip the rest of the critical lane"
    STOP_RUN = "stop_run", "stop run: start nothing more"


class PoolStart(models.TextChoices):
    """When the pool starts."""

    AFTER_CRITICAL = "after_critical", "after the critical lane"
    BESIDE_CRITICAL = "beside_critical", "beside the critical lane"


class StepQuerySet(models.QuerySet["Step"]):
    def from_code(self) -> StepQuerySet:
        return self.filter(from_code=True)

    def by_hand(self) -> StepQuerySet:
        return self.filter(from_code=False)

    def missing(self) -> StepQuerySet:
        return self.filter(missing=True)


class Step(models.Model):
    """A definition that can be run."""

    name = models.CharField(
        max_length=values.NAME_LENGTH, unique=True, validators=[validators.validate_name]
    )
    kind = models.CharField(max_length=20, db_index=True)
    """A key of `kinds.KINDS`."""
    category = models.CharField(
        max_length=values.CATEGORY_LENGTH,
        blank=True,
        db_index=True,
        validators=[validators.validate_category],
        help_text="Groups steps in lists; rules can ask for it.",
    )
    description = models.TextField(blank=True, validators=[validators.validate_text])
    target = ObjectField(default=dict, blank=True)
    """What to run; its shape depends on the kind (docs/steps.md)."""
    parameters = ObjectField(
        default=dict,
        blank=True,
        validators=[validators.validate_object],
        help_text="A JSON object. An entry of a batch can override each of them.",
    )
    timeout_seconds = models.FloatField(
        null=True,
        blank=True,
        validators=[validators.validate_seconds],
        help_text="Per attempt. Empty: the run's or the batch's default decides.",
    )
    grace_seconds = models.FloatField(
        default=5.0,
        validators=[validators.validate_span],
        help_text="Between asking the step to stop and making it.",
    )
    retry_safe = models.BooleanField(
        default=False,
        help_text="Running it twice does no harm, so it may be tried again after a miss.",
    )
    attempts = models.PositiveSmallIntegerField(
        default=3,
        validators=[validators.validate_attempts],
        help_text="At most, the first included; counts only if the step is retry-safe.",
    )
    backoff_seconds = models.FloatField(
        default=1.0,
        validators=[validators.validate_span],
        help_text="Before the second attempt; doubled for each one after it.",
    )
    protected = models.BooleanField(
        default=False, help_text="While it runs, no cancel stops it, only its timeout does."
    )
    from_code = models.BooleanField(default=False, editable=False)
    """Everything about it comes from a `@step` in a steps.py."""
    module = models.CharField(max_length=300, blank=True, editable=False)
    """Of the function, for steps from code."""
    missing = models.BooleanField(default=False, editable=False)
    """A Python step without its function."""

    objects = StepQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [
            ("define_command_step", "Can define command and management steps"),
        ]
        constraints = [
            models.CheckConstraint(name="step_named", condition=~Q(name="")),
            models.CheckConstraint(
                name="step_timeout_positive",
                condition=Q(timeout_seconds__isnull=True) | Q(timeout_seconds__gt=0),
            ),
            models.CheckConstraint(
                name="step_grace_not_negative", condition=Q(grace_seconds__gte=0)
            ),
            models.CheckConstraint(name="step_attempts_at_least_one", condition=Q(attempts__gte=1)),
            models.CheckConstraint(
                name="step_backoff_not_negative", condition=Q(backoff_seconds__gte=0)
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        super().clean_fields(exclude)
        skipped = exclude or ()
        problem = values.choice_problem(self.kind, tuple(KINDS))
        if problem and "kind" not in skipped:
            raise ValidationError({"kind": validators.sentence(problem)})
        problems = self.target_problems()
        if problems and "target" not in skipped:
            raise ValidationError({"target": [str(problem) for problem in problems]})

    @property
    def kind_label(self) -> str:
        return KINDS[self.kind].label if self.kind in KINDS else self.kind

    @property
    def is_isolated(self) -> bool:
        """A Python step that runs in a process of its own."""
        return self.kind == "python" and self.target.get("isolation") == "process"

    def target_problems(self) -> list[Problem]:
        kind = KINDS.get(self.kind)
        return kind.validate_target(self.target) if kind else []


class Batch(models.Model):
    """An ordered list of entries that are run together."""

    slug = models.SlugField(
        max_length=values.NAME_LENGTH,
        unique=True,
        validators=[validators.validate_slug],
        help_text="Names the batch in addresses, commands and files.",
    )
    name = models.CharField(max_length=values.NAME_LENGTH, validators=[validators.validate_name])
    description = models.TextField(blank=True, validators=[validators.validate_text])
    context = ObjectField(
        default=dict,
        blank=True,
        validators=[validators.validate_context],
        help_text="What a run begins with unless told otherwise: a JSON object, at most 1 MiB.",
    )
    pool_width = models.PositiveSmallIntegerField(
        default=4,
        validators=[validators.validate_pool_width],
        help_text="How many steps of the pool run side by side, from 1 to 256.",
    )
    failure_policy = models.CharField(
        max_length=20,
        choices=FailurePolicy.choices,
        default=FailurePolicy.STOP_CRITICAL,
        help_text="What happens after a critical step did not succeed.",
    )
    pool_start = models.CharField(
        max_length=20, choices=PoolStart.choices, default=PoolStart.AFTER_CRITICAL
    )
    default_timeout_seconds = models.FloatField(
        null=True,
        blank=True,
        validators=[validators.validate_seconds],
        help_text="For entries and steps without a timeout of their own. Empty: 30 seconds.",
    )
    max_active_runs = models.PositiveSmallIntegerField(
        default=1,
        validators=[validators.validate_active_runs],
        help_text="How many runs of this batch may run at once; the next one waits.",
    )

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "batches"
        constraints = [
            models.CheckConstraint(name="batch_named", condition=~Q(slug="") & ~Q(name="")),
            models.CheckConstraint(
                name="batch_pool_width",
                condition=Q(
                    pool_width__gte=values.POOL_WIDTHS[0], pool_width__lte=values.POOL_WIDTHS[1]
                ),
            ),
            models.CheckConstraint(
                name="batch_failure_policy_known",
                condition=Q(failure_policy__in=sorted(FailurePolicy.values)),
            ),
            models.CheckConstraint(
                name="batch_pool_start_known",
                condition=Q(pool_start__in=sorted(PoolStart.values)),
            ),
            models.CheckConstraint(
                name="batch_timeout_positive",
                condition=Q(default_timeout_seconds__isnull=True)
                | Q(default_timeout_seconds__gt=0),
            ),
            models.CheckConstraint(
                name="batch_active_runs_at_least_one", condition=Q(max_active_runs__gte=1)
            ),
        ]

    def __str__(self) -> str:
        return self.name


class BatchStep(models.Model):
    """An entry: one step of a batch, under its own name if it has one."""

    batch = models.ForeignKey(Batch, models.CASCADE, related_name="entries")
    step = models.ForeignKey(Step, models.PROTECT, related_name="entries")
    position = models.PositiveIntegerField(default=0)
    """Orders the entries; gaps and repetitions are fine."""
    name = models.CharField(
        max_length=values.NAME_LENGTH,
        blank=True,
        validators=[validators.validate_name],
        help_text="Empty: the step's name. Unique in the batch.",
    )
    enabled = models.BooleanField("on", default=True)
    parameters = ObjectField(default=dict, blank=True, validators=[validators.validate_object])
    timeout_seconds = models.FloatField(
        "timeout (s)", null=True, blank=True, validators=[validators.validate_seconds]
    )

    class Meta:
        ordering = ["batch", "position", "id"]
        verbose_name = "entry"
        verbose_name_plural = "entries"
        constraints = [
            models.CheckConstraint(
                name="entry_timeout_positive",
                condition=Q(timeout_seconds__isnull=True) | Q(timeout_seconds__gt=0),
            ),
            # The rest of "unique in the batch" spans two tables; forms, files and select() hold it.
            models.UniqueConstraint(
                name="entry_name_unique",
                fields=["batch", "name"],
                condition=~Q(name=""),
                violation_error_message="Two entries of this batch have this name.",
            ),
            models.UniqueConstraint(
                name="entry_nameless_step_unique",
                fields=["batch", "step"],
                condition=Q(name=""),
                violation_error_message=(
                    "This step is in the batch already: give one of the two entries a name."
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.effective_name

    @property
    def effective_name(self) -> str:
        return self.name or self.step.name


class ConditionChoices(models.TextChoices):
    """The conditions of the classifier, as the admin shows them."""

    NAME_EQUALS = Condition.NAME_EQUALS.value, "name equals"
    NAME_MATCHES = Condition.NAME_MATCHES.value, "name matches (RE2 pattern, anywhere in it)"
    CATEGORY_IS = Condition.CATEGORY_IS.value, "category is"
    CONTEXT_TRUTHY = Condition.CONTEXT_TRUTHY.value, "context has a true value for"
    CONTEXT_EQUALS = Condition.CONTEXT_EQUALS.value, "context has exactly this value for"
    CONTEXT_LIST_NONEMPTY = (
        Condition.CONTEXT_LIST_NONEMPTY.value,
        "context has a list that is not empty for",
    )


class ClassificationRuleQuerySet(models.QuerySet["ClassificationRule"]):
    def active(self) -> ClassificationRuleQuerySet:
        return self.filter(enabled=True)

    def specs(self) -> list[RuleSpec]:
        """The active rules in order, numbered from 1. One query."""
        return [rule.to_spec(place) for place, rule in enumerate(self.active(), start=1)]

    def with_place(self) -> ClassificationRuleQuerySet:
        """Adds `place`: the number of a rule among the active ones, which `because` names."""
        earlier = Q(position__lt=OuterRef("position")) | Q(
            position=OuterRef("position"), id__lte=OuterRef("id")
        )
        before = ClassificationRule.objects.active().filter(earlier).order_by()
        count = before.annotate(count=Func("pk", function="COUNT")).values("count")
        return self.annotate(place=Subquery(count))


class ClassificationRule(models.Model):
    """An ordered condition with a verdict; the first that matches decides."""

    position = models.PositiveIntegerField(
        help_text="Rules are asked in this order; the first that matches decides.",
    )
    name = models.CharField(
        max_length=values.NAME_LENGTH, unique=True, validators=[validators.validate_name]
    )
    condition = models.CharField(max_length=30, choices=ConditionChoices.choices)
    operand = models.CharField(
        max_length=1000,
        help_text=("The name, the RE2 pattern, the category or the context key of the condition."),
    )
    value = models.JSONField(
        null=True,
        blank=True,
        validators=[validators.validate_json],
        help_text=(
            "Only for “context has exactly this value”: JSON, so text stands in double quotes."
        ),
    )
    critical = models.BooleanField(
        default=True, help_text="The verdict: on for critical, off for not critical."
    )
    enabled = models.BooleanField("on", default=True)

    objects = ClassificationRuleQuerySet.as_manager()

    class Meta:
        ordering = ["position", "id"]
        verbose_name = "rule"
        constraints = [
            models.CheckConstraint(
                name="rule_condition_known",
                condition=Q(condition__in=sorted(ConditionChoices.values)),
            ),
            models.CheckConstraint(name="rule_complete", condition=~Q(name="") & ~Q(operand="")),
        ]

    def __str__(self) -> str:
        return self.name

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        super().clean_fields(exclude)
        skipped = exclude or ()
        problem = operand_problem(self.condition, self.operand)
        if problem and "operand" not in skipped:
            raise ValidationError({"operand": problem})
        needless = self.condition != Condition.CONTEXT_EQUALS and self.value is not None
        if needless and "value" not in skipped:
            raise ValidationError(
                {"value": "Only “context has exactly this value” takes a value; leave it empty."}
            )

    @property
    def sentence(self) -> str:
        """The rule in words, such as `Critical if the name matches "IDE.*Step$"`."""
        spec = self.to_spec()
        return f"{spec.verdict.capitalize()} if {spec.phrase}"

    def to_spec(self, position: int | None = None) -> RuleSpec:
        """The rule as a value, at `position` among the active ones (default: its own)."""
        return RuleSpec(
            position=self.position if position is None else position,
            name=self.name,
            condition=Condition(self.condition),
            operand=self.operand,
            value=self.value,
            critical=self.critical,
        )

    @classmethod
    def from_spec(cls, spec: RuleSpec) -> ClassificationRule:
        """An unsaved, active rule."""
        return cls(**spec.to_json())


def operand_problem(condition: str, operand: str) -> str | None:
    """Why `operand` does not fit `condition`, as a sentence; None if it does."""
    if condition == Condition.NAME_MATCHES:
        return pattern_problem(operand)
    limit = values.CATEGORY_LENGTH if condition == Condition.CATEGORY_IS else values.NAME_LENGTH
    problem = values.name_problem(operand, limit)
    return validators.sentence(problem) if problem else None


class RuleSet(models.Model):
    """The active rules at one moment. Never changed; a run points to the one that judged it."""

    hash = models.CharField(max_length=64, unique=True)
    """`classifier.rules_hash` of the rules."""
    rules = models.JSONField()
    """`RuleSpec.to_json()` of each, in order."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{len(self.rules)} rules, {self.hash[:12]}"

    @classmethod
    def current(cls) -> RuleSet:
        """The rule set of the rules that are active now; made if it is new."""
        specs = ClassificationRule.objects.specs()
        ruleset, _ = cls.objects.get_or_create(
            hash=rules_hash(specs), defaults={"rules": [spec.to_json() for spec in specs]}
        )
        return ruleset

    def specs(self) -> list[RuleSpec]:
        return [RuleSpec.from_json(rule) for rule in self.rules]

    @property
    def classifier(self) -> Classifier:
        """Compiled once per process and set of rules."""
        known = _classifiers.get(self.hash)
        if known is None:
            if len(_classifiers) >= _CLASSIFIERS_KEPT:
                _classifiers.clear()
            known = _classifiers[self.hash] = Classifier(self.specs())
        return known


# The hash names the rules, so an entry is never out of date.
_classifiers: dict[str, Classifier] = {}
_CLASSIFIERS_KEPT = 16
