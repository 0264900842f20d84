"""Rows in an order that people give: their `position` counts 1, 2, 3, …"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import QuerySet


def put(row: Any, siblings: QuerySet[Any], position: int) -> None:
    """Make `row` the one at `position`, from 1, of `siblings`; the others move aside."""
    with transaction.atomic():
        order = list(siblings.select_for_update().exclude(pk=row.pk).order_by("position", "id"))
        order.insert(max(position - 1, 0), row)
        renumber(order)


def renumber(order: Iterable[Any]) -> None:
    """Number the rows in this order, writing only those whose number changes."""
    for position, row in enumerate(order, start=1):
        if row.position != position:
            row.position = position
            row.save(update_fields=["position"])


def shift(order: list[Any], chosen: list[bool], by: int) -> list[Any]:
    """Move each chosen item of `order` one place up (-1) or down (1); returns what moved.

    Chosen neighbours move together; what stands at the end stays.
    """
    moved = []
    indexes = range(len(order)) if by < 0 else range(len(order) - 1, -1, -1)
    for index in indexes:
        other = index + by
        if chosen[index] and 0 <= other < len(order) and not chosen[other]:
            moved.append(order[index])
            order[index], order[other] = order[other], order[index]
            chosen[index], chosen[other] = False, True
    return moved
