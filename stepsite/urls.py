"""Addresses of the site."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("executions.urls")),
]

handler500 = "executions.middleware.server_error"
