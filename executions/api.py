"""The JSON API: reads a request, calls one query or action, answers. docs/api.md describes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, NoReturn

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse

from steps import values
from steps.json_text import RepeatedKey, read_json
from steps.models import Batch
from steps.selection import SelectionError

from . import actions, queries
from . import forecast as forecasts
from .actions import Actor, PlanChangedError, ProtectedError
from .answers import FieldError, Refusal, answer, refusal, refused, uncached
from .engine.plan import Plan, PlannedStep, RunOptions
from .engine.status import RunStatus
from .models import CancelMode, Run, StepRun
from .permissions import CANCEL_RUN, TRIGGER_RUN, VIEW_RUN
from .run_options import chosen_options, option_problems

BODY_LIMIT = 2 * 1024 * 1024
NOTE_LENGTH = 500
LARGEST_NUMBER = 2**63 - 1

View = Callable[..., HttpResponse]
Body = dict[str, Any]


def endpoint(**permissions: str) -> Callable[[View], View]:
    """Makes a view of the API: `GET="executions.view_run"` allows a method to those with a right.

    The view may raise a `Refusal`, and ask for runs and steps that do not exist.
    """
    allowed = {**permissions, **({"HEAD": permissions["GET"]} if "GET" in permissions else {})}

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapper(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            permission = allowed.get(request.method or "")
            if permission is None:
                response = refused(405, f"{request.method} is not allowed here.")
                response["Allow"] = ", ".join(sorted(allowed))
                return response
            if not request.user.has_perm(permission):
                return refused(403, f"This needs the permission {permission}.")
            return _answered(view, request, kwargs)

        return wrapper

    return decorate


def _answered(view: View, request: HttpRequest, kwargs: Mapping[str, Any]) -> HttpResponse:
    try:
        return view(request, **kwargs)
    except Refusal as error:
        return refusal(error.status, *error.errors)
    except Run.DoesNotExist:
        return refused(404, "There is no such run.")
    except StepRun.DoesNotExist:
        return refused(404, "There is no such step of a run.")
    except OperationalError:
        response = refused(503, "The database is busy or away. Try again in a moment.")
        response["Retry-After"] = "1"
        return response


def unknown(request: HttpRequest) -> HttpResponse:
    return refused(404, f"There is nothing at {request.path}.")


# ---- reading ------------------------------------------------------------------------------------


@endpoint(GET=VIEW_RUN, POST=TRIGGER_RUN)
def runs(request: HttpRequest) -> HttpResponse:
    return _start(request) if request.method == "POST" else _list(request)


def _list(request: HttpRequest) -> HttpResponse:
    batch, status = request.GET.get("batch"), request.GET.get("status")
    before = _number(request, "before")
    if status is not None and (problem := values.choice_problem(status, tuple(RunStatus))):
        _refuse("status", problem)
    is_active = request.GET.get("active") == "1"
    if is_active and batch is None and status is None and before is None:
        return answer(queries.active_runs())
    return answer(
        queries.runs_page(batch=batch, status=status, before=before, only_active=is_active)
    )


@endpoint(GET=VIEW_RUN)
def run(request: HttpRequest, run_id: int) -> HttpResponse:
    can = {"cancel": request.user.has_perm(CANCEL_RUN)}
    return answer({**queries.snapshot(run_id), "can": can})


@endpoint(GET=VIEW_RUN)
def changes(request: HttpRequest, run_id: int) -> HttpResponse:
    return answer(queries.changes_after(run_id, _number(request, "after") or 0))


@endpoint(GET=VIEW_RUN)
def forecast(request: HttpRequest, run_id: int) -> HttpResponse:
    return answer({"steps": forecasts.forecast(Run.objects.get(pk=run_id))})


@endpoint(GET=VIEW_RUN)
def results(request: HttpRequest, run_id: int) -> HttpResponse:
    return answer(queries.results(run_id))


@endpoint(GET=VIEW_RUN)
def log(request: HttpRequest, step_run_id: int) -> HttpResponse:
    if request.GET.get("raw") == "1":
        response = _text(queries.whole_log(step_run_id))
        response["Content-Disposition"] = f'attachment; filename="step-run-{step_run_id}.log"'
        return response
    limit = _number(request, "limit")
    piece = queries.read_log(
        step_run_id,
        _number(request, "offset") or 0,
        queries.LOG_LIMIT if limit is None else limit,
        tail=request.GET.get("tail") == "1",
    )
    response = _text(piece.data)
    response["X-Log-Offset"] = str(piece.offset)
    response["X-Log-Next"] = str(piece.next_offset)
    response["X-Log-Size"] = str(piece.size)
    response["X-Log-Final"] = "1" if piece.is_final else "0"
    return response


def _text(data: bytes) -> HttpResponse:
    response = HttpResponse(data, content_type="text/plain; charset=utf-8")
    # Output is whatever a step wrote. Should a browser show it, nothing in it may run.
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return uncached(response)


def _number(request: HttpRequest, name: str) -> int | None:
    """A whole number from the query string."""
    text = request.GET.get(name)
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= number <= LARGEST_NUMBER:
        _refuse(name, f"must be a whole number from 0 to {LARGEST_NUMBER}")
    return number


# ---- triggering ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What a request wants to be run."""

    batch: Batch
    context: dict[str, Any] | None
    names: list[str] | None
    options: RunOptions
    plan_hash: str | None


ORDER_FIELDS = ("batch", "context", "steps", "options", "plan_hash")


def _start(request: HttpRequest) -> HttpResponse:
    order = _order(request)
    try:
        made = actions.start_run(
            order.batch,
            actor=_actor(request),
            context=order.context,
            names=order.names,
            options=order.options,
            expected_hash=order.plan_hash,
        )
    except SelectionError as error:
        raise _selection_refusal(error) from error
    except PlanChangedError as error:
        return answer(_plan(order.batch, error.plan), 409)
    plan_hash = order.plan_hash or made.input.load_plan().hash
    return answer({"id": made.pk, "url": made.get_absolute_url(), "plan_hash": plan_hash}, 201)


@endpoint(POST=TRIGGER_RUN)
def plan(request: HttpRequest) -> HttpResponse:
    order = _order(request)
    try:
        made = actions.preview(
            order.batch, context=order.context, names=order.names, options=order.options
        )
    except SelectionError as error:
        raise _selection_refusal(error) from error
    return answer(_plan(order.batch, made))


def _selection_refusal(error: SelectionError) -> Refusal:
    errors: list[FieldError] = [{"field": "steps", "message": text} for text in error.problems]
    return Refusal(400, *errors)


def _plan(batch: Batch, made: Plan) -> dict[str, Any]:
    return {
        "plan_hash": made.hash,
        "plan": {
            "critical": [_planned(step) for step in made.critical],
            "pool": [_planned(step) for step in made.pool],
        },
        "warnings": queries.plan_warnings(batch, made),
    }


def _planned(step: PlannedStep) -> dict[str, Any]:
    return {
        "name": step.name,
        "step_name": step.step_name,
        "kind": step.kind,
        "category": step.category,
        "rule_position": step.rule_position,
        "because": step.because,
        "timeout_seconds": step.timeout_seconds,
        "attempts": step.attempts,
        "protected": step.protected,
    }


def _order(request: HttpRequest) -> Order:
    """The body of a request to run or plan something. Raises `Refusal` with every problem."""
    body = _body(request, ORDER_FIELDS)
    batch, problems = _batch(body.get("batch"))
    context, names, given = body.get("context"), body.get("steps"), body.get("options")
    if context is not None and (problem := values.context_problem(context)):
        problems["context"] = problem
    if names is not None and not _are_texts(names):
        problems["steps"] = "must be a list of names of entries"
    if given is not None:
        problems |= _option_problems(given)
    if not isinstance(body.get("plan_hash"), str | None):
        problems["plan_hash"] = "must be text: the plan_hash of a plan"
    if problems or batch is None:
        raise Refusal(400, *_field_errors(problems))
    options = chosen_options(given or {}, actions.default_options(batch))
    return Order(batch, context, names, options, body.get("plan_hash"))


def _batch(slug: Any) -> tuple[Batch | None, dict[str, str]]:
    if not isinstance(slug, str):
        return None, {"batch": "must be text: the slug of a batch"}
    batch = Batch.objects.filter(slug=slug).first()
    return batch, {} if batch else {"batch": f"must be a batch, and {values.shown(slug)} is none"}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _option_problems(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        return {"options": "must be an object: names with values"}
    return {f"options.{name}": problem for name, problem in option_problems(given).items()}


# ---- cancelling ---------------------------------------------------------------------------------


@endpoint(POST=CANCEL_RUN)
def cancel_run(request: HttpRequest, run_id: int) -> HttpResponse:
    asked = _cancel_request(request)
    Run.objects.only("pk").get(pk=run_id)
    return _cancelled(actions.cancel_run(run_id, actor=_actor(request), **asked), run_id)


@endpoint(POST=CANCEL_RUN)
def cancel_step(request: HttpRequest, step_run_id: int) -> HttpResponse:
    note = _note(request)
    step_run = StepRun.objects.only("run_id").get(pk=step_run_id)
    try:
        status = actions.cancel_step(step_run_id, actor=_actor(request), note=note)
    except ProtectedError as error:
        raise Refusal(409, {"field": "", "message": str(error)}) from error
    return _cancelled(status, step_run.run_id)


@endpoint(POST=CANCEL_RUN)
def cancel_all(request: HttpRequest) -> HttpResponse:
    asked = _cancel_request(request)
    return answer({"cancelled": actions.cancel_all(actor=_actor(request), **asked)}, 202)


def _cancel_request(request: HttpRequest) -> dict[str, str]:
    """Note and mode of a cancel of runs. Raises `Refusal` with every problem."""
    body = _body(request, ("note", "mode"))
    mode = body.get("mode", CancelMode.STOP.value)
    problems = _note_problems(body)
    if problem := values.choice_problem(mode, tuple(CancelMode.values)):
        problems["mode"] = problem
    if problems:
        raise Refusal(400, *_field_errors(problems))
    return {"note": body.get("note", ""), "mode": mode}


def _cancelled(status: str, run_id: int) -> HttpResponse:
    changed = queries.run_object(Run.objects.get(pk=run_id))
    return answer({"status": status, "run": changed}, 202)


def _note(request: HttpRequest) -> str:
    body = _body(request, ("note",))
    if problems := _note_problems(body):
        raise Refusal(400, *_field_errors(problems))
    note: str = body.get("note", "")
    return note


def _note_problems(body: Body) -> dict[str, str]:
    problem = values.text_problem(body.get("note", ""), NOTE_LENGTH)
    return {"note": problem} if problem else {}


def _actor(request: HttpRequest) -> Actor:
    return Actor.of(request.user)  # type: ignore[arg-type]


# ---- bodies -------------------------------------------------------------------------------------


def _body(request: HttpRequest, fields: Collection[str]) -> Body:
    """The JSON object that was sent; an empty body counts as an empty one. Raises `Refusal`."""
    text = _read(request)
    if not text:
        return {}
    if request.content_type != "application/json":
        _refuse("", "must be JSON, sent as Content-Type: application/json", status=415)
    try:
        body = read_json(text)
    except RecursionError:
        _refuse("", f"must not be nested deeper than {values.JSON_DEPTH} levels")
    except ValueError as error:
        _refuse("", f"must be JSON: {error}")
    if not isinstance(body, dict):
        _refuse("", "must be a JSON object")
    if isinstance(body, RepeatedKey):
        _refuse(body.key, "must not be given twice")
    if unknown := body.keys() - set(fields):
        raise Refusal(400, *_field_errors({name: _not_one_of(fields) for name in unknown}))
    bad = {name: problem for name, item in body.items() if (problem := values.json_problem(item))}
    if bad:
        raise Refusal(400, *_field_errors(bad))
    return body


def _read(request: HttpRequest) -> bytes:
    # Not by the Content-Length, which may be missing.
    text = request.read(BODY_LIMIT + 1)
    if len(text) > BODY_LIMIT:
        _refuse("", f"must have at most {BODY_LIMIT} bytes", status=413)
    return text


def _not_one_of(names: Collection[str]) -> str:
    return f"is not known here, only: {', '.join(names)}"


def _refuse(field: str, problem: str, status: int = 400) -> NoReturn:
    raise Refusal(status, *_field_errors({field: problem}))


def _field_errors(problems: Mapping[str, str]) -> list[FieldError]:
    """From phrases such as `must be text` by field."""
    return [
        {"field": field, "message": f"{field or 'The body'} {problem}."}
        for field, problem in sorted(problems.items())
    ]
