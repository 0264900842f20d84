"""Addresses of the API, to be included under `api/`."""

from __future__ import annotations

from django.urls import path, re_path

from . import api

urlpatterns = [
    path("runs", api.runs, name="api-runs"),
    path("runs/cancel", api.cancel_all, name="api-runs-cancel"),
    path("runs/<int:run_id>", api.run, name="api-run"),
    path("runs/<int:run_id>/changes", api.changes, name="api-run-changes"),
    path("runs/<int:run_id>/forecast", api.forecast, name="api-run-forecast"),
    path("runs/<int:run_id>/results", api.results, name="api-run-results"),
    path("runs/<int:run_id>/cancel", api.cancel_run, name="api-run-cancel"),
    path("step-runs/<int:step_run_id>/log", api.log, name="api-step-run-log"),
    path("step-runs/<int:step_run_id>/cancel", api.cancel_step, name="api-step-run-cancel"),
    path("plan", api.plan, name="api-plan"),
    # Its older address.
    path("cancel-all", api.cancel_all, name="api-cancel-all"),
    re_path("", api.unknown, name="api-unknown"),
]
