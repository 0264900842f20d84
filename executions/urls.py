"""Addresses of the pages and, below api/, of the API."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("rails/", views.rails, name="rails"),
    path("batches/", views.batches, name="batches"),
    path("batches/<slug:slug>/", views.batch, name="batch"),
    path("runs/", views.runs, name="runs"),
    path("runs/cancel/", views.cancel_all, name="cancel-all"),
    path("runs/<int:pk>/", views.run, name="run"),
    path("runs/<int:pk>/cancel/", views.cancel_run, name="cancel-run"),
    path("step-runs/<int:pk>/cancel/", views.cancel_step, name="cancel-step"),
    path("steps/", views.steps, name="steps"),
    path(
        "sign-in/",
        LoginView.as_view(template_name="sign_in.html", redirect_authenticated_user=True),
        name="sign-in",
    ),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("favicon.ico", views.favicon),
    path("api/", include("executions.api_urls")),
]
