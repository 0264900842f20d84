"""Talks to a site as a program does: signs in, asks the API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

TIMEOUT_SECONDS = 20.0


class Client:
    """Somebody who is signed in. Answers other than 2xx raise `urllib.error.HTTPError`."""

    def __init__(
        self, url: str, name: str, password: str, *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.url = url
        self._timeout = timeout
        self._jar = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
        self._open("sign-in/")
        form = {"username": name, "password": password, "csrfmiddlewaretoken": self._token}
        self._open("sign-in/", urllib.parse.urlencode(form).encode())

    def get(self, path: str) -> Any:
        """The JSON at `path`, which is below the root: `api/runs/7`."""
        return json.loads(self._open(path, accept="application/json"))

    def read(self, path: str) -> bytes:
        """Whatever is at `path`."""
        return self._open(path)

    def post(self, path: str, body: Any) -> Any:
        return json.loads(
            self._open(path, json.dumps(body).encode(), content_type="application/json")
        )

    def start(self, slug: str, context: dict[str, Any], **asked: Any) -> int:
        """Trigger a run; its id."""
        body = {"batch": slug, "context": context, **asked}
        return int(self.post("api/runs", body)["id"])

    def statuses(self, run_id: int) -> dict[str, str]:
        """The status of each step by its name, as it is stored."""
        return {row["name"]: row["status"] for row in self.steps(run_id)}

    def steps(self, run_id: int) -> list[dict[str, Any]]:
        snapshot = self.get(f"api/runs/{run_id}")
        return [dict(zip(snapshot["columns"], row, strict=True)) for row in snapshot["steps"]]

    def run(self, run_id: int) -> dict[str, Any]:
        run: dict[str, Any] = self.get(f"api/runs/{run_id}")["run"]
        return run

    @property
    def cookies(self) -> list[dict[str, str]]:
        """For a browser that should be the same person."""
        return [{"name": c.name, "value": c.value or "", "url": self.url} for c in self._jar]

    @property
    def _token(self) -> str:
        return next(c.value or "" for c in self._jar if c.name == "csrftoken")

    def _open(
        self,
        path: str,
        data: bytes | None = None,
        *,
        accept: str = "*/*",
        content_type: str = "application/x-www-form-urlencoded",
    ) -> bytes:
        headers = {"Accept": accept}
        if data is not None:
            headers["Content-Type"] = content_type
            if content_type == "application/json":
                headers["X-CSRFToken"] = self._token
        request = urllib.request.Request(self.url + path, data, headers)
        with self._opener.open(request, timeout=self._timeout) as response:
            return bytes(response.read())
