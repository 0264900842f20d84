"""Template tags of the pages: glyphs, pills, bars, durations and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django import template
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from executions import presentation
from executions.models import Run, StepRun

register = template.Library()

MISSING = "—"
BREAKS = re.compile(r"(?<=[-_.:/])|(?<=[a-z0-9])(?=[A-Z])")


@cache
def _sprite() -> str:
    return render_to_string("_sprite.html")


@register.simple_tag
def sprite() -> SafeString:
    """Every symbol that `icon` and `glyph` refer to; once per page, rendered once per process."""
    return mark_safe(_sprite())  # noqa: S308  (a template of ours, rendered with autoescape)


@register.simple_tag
def icon(name: str, size: int = 16) -> SafeString:
    """A decorative icon of the sprite."""
    return format_html(
        '<svg class="icon" width="{0}" height="{0}" aria-hidden="true">'
        '<use href="#i-{1}"></use></svg>',
        size,
        name,
    )


@register.simple_tag
def glyph(status: str, size: int = 18, label: str = "") -> SafeString:
    """The silhouette of a status; `label` for when no word stands beside it."""
    return format_html(
        '<svg class="glyph" data-status="{0}" width="{1}" height="{1}" {2}>'
        '<use href="#g-{0}"></use></svg>',
        status,
        size,
        format_html('role="img" aria-label="{}"', label)
        if label
        else mark_safe('aria-hidden="true"'),
    )


@register.simple_tag
def pill(status: str, size: str = "") -> SafeString:
    """Glyph and word of a status; `size` "lg" for headings."""
    return format_html(
        '<span class="pill {}" data-status="{}">{}<span>{}</span></span>',
        size,
        status,
        glyph(status, 20 if size == "lg" else 16),
        presentation.WORDS[status],
    )


@register.filter
def word(status: str) -> str:
    return presentation.WORDS.get(status, status)


@register.filter
def breakable(name: str) -> SafeString:
    """A name with places where it may be broken: after punctuation and where words meet."""
    parts = BREAKS.split(name)
    return format_html_join(mark_safe("<wbr>"), "{}", ((part,) for part in parts))


@register.filter
def shown(run: Run) -> str:
    """The status of a run as it is shown; `cancelling` is derived."""
    return presentation.run_shown(run)


@register.filter
def done(run: Run) -> int:
    return presentation.finished(run)


@register.filter
def number(value: int) -> str:
    return f"{value:,}"


@register.filter
def policy(value: str) -> str:
    return presentation.POLICIES.get(value, value)


@register.filter
def pool_start(value: str) -> str:
    return presentation.POOL_STARTS.get(value, value)


@register.filter
def limit(seconds: float | None) -> str:
    return presentation.timeout_in_words(seconds)


@register.filter
def duration(seconds: float | None) -> str:
    return MISSING if seconds is None else presentation.duration_in_words(seconds)


@register.simple_tag
def segments(numbers: Mapping[str, int]) -> SafeString:
    """The progress bar: an SVG, because widths in style attributes are refused by the CSP."""
    bars = format_html_join(
        "",
        '<rect data-status="{}" x="{}%" width="{}%" height="100%" rx="3">'
        "<title>{}: {}</title></rect>",
        (
            (bar.status, bar.start, bar.width, presentation.WORDS[bar.status], bar.count)
            for bar in presentation.segments(numbers)
        ),
    )
    return format_html(
        '<svg class="seg" role="img" aria-label="{}">{}</svg>',
        presentation.in_words(numbers),
        bars,
    )


@register.simple_tag
def run_segments(run: Run) -> SafeString:
    return segments(presentation.counts(run))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@register.simple_tag
def server_now() -> str:
    """The server's time, so that scripts need not trust the clock of the machine they run on."""
    return _stamp(timezone.now())


@register.simple_tag
def ago(moment: datetime | None) -> str | SafeString:
    """A relative time; the absolute one in UTC is in its title."""
    if moment is None:
        return MISSING
    return format_html(
        '<time datetime="{}" title="{} UTC" data-ago>{}</time>',
        _stamp(moment),
        moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        presentation.ago_in_words(moment, timezone.now()),
    )


@register.simple_tag
def at(moment: datetime) -> SafeString:
    """The time of day in UTC; the date is in its title."""
    utc = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{} UTC</time>',
        _stamp(moment),
        utc.strftime("%Y-%m-%d %H:%M:%S UTC"),
        utc.strftime("%H:%M:%S"),
    )


@register.simple_tag
def elapsed(item: Run | StepRun) -> str | SafeString:
    """How long something has taken so far, or took. A run that never started: how long it waits."""
    start = item.started_at or (item.queued_at if isinstance(item, Run) else None)
    if start is None:
        return MISSING
    end = item.finished_at or timezone.now()
    return format_html(
        '<span class="num" data-since="{}" data-until="{}">{}</span>',
        _stamp(start),
        _stamp(item.finished_at) if item.finished_at else "",
        presentation.duration_in_words((end - start).total_seconds()),
    )


@register.simple_tag(takes_context=True)
def current(context: dict[str, Any], *names: str) -> SafeString:
    """`aria-current` for a navigation link that leads to the page itself or one below it."""
    request = context.get("request")
    match = getattr(request, "resolver_match", None)
    here = match is not None and match.url_name in names
    return format_html('aria-current="{}"', "page") if here else mark_safe("")
