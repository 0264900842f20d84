"""Settings of a stepsite installation.

Everything that differs between installations comes from the environment; docs/settings.md lists it.
Without any of it the site runs on this machine alone: SQLite, no other service.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import dj_database_url

BASE_DIR = Path(__file__).resolve().parent.parent


def _words(name: str) -> list[str]:
    """The comma-separated words of an environment variable."""
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


def _secret_key(path: Path) -> str:
    """The key in `path`, made on first use and readable by its owner alone.

    Web and worker share it, so it must outlive both.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(64)
        file.write(key)
    return key


# Everything that this installation writes: database, key, backups, working directories of steps.
DATA_DIR = Path(os.environ.get("STEPSITE_DATA", BASE_DIR / "var")).resolve()

SECRET_KEY = os.environ.get("SECRET_KEY") or _secret_key(DATA_DIR / "secret_key")
DEBUG = os.environ.get("STEPSITE_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *_words("STEPSITE_HOSTS")]
# Full origins (scheme, host, port) that may post forms and open sockets beside the site's own.
CSRF_TRUSTED_ORIGINS = _words("STEPSITE_ORIGINS")
CSRF_FAILURE_VIEW = "executions.middleware.csrf_failure"
if os.environ.get("STEPSITE_BEHIND_PROXY") == "1":
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
_HTTPS = os.environ.get("STEPSITE_HTTPS") == "1"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "django_q",
    "lucide",
    "steps",
    "executions",
    *_words("STEPSITE_APPS"),
]

MIDDLEWARE = [
    "executions.middleware.answer_in_time",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "executions.middleware.SignInRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "stepsite.urls"
ASGI_APPLICATION = "stepsite.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


# By default a query waits some 15 minutes for a server that vanished without a word, and a server
# keeps the locks of a client that vanished for 2 hours. All of these stay below the 20 seconds
# after which another worker takes a run over.
_POSTGRES_OPTIONS = {
    # Seconds for a connection to be made, which takes several round trips and a new process.
    "connect_timeout": 5,
    # Here: an idle connection is asked after 5 s, and is over when 3 questions stay unanswered;
    # and so it is 10 s (given in ms) after something that was sent and never arrived.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # The same at the server, so that a client's machine that is gone does not hold its locks. And
    # a lock that somebody holds all the same is waited for as long as that of SQLite.
    "options": (
        "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 "
        "-c tcp_user_timeout=10000 -c lock_timeout=20000"
    ),
}


def _database() -> dict[str, Any]:
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{DATA_DIR / 'db.sqlite3'}"
    database: dict[str, Any] = dict(dj_database_url.parse(url))
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["OPTIONS"] = {
            # A transaction that reads first and writes later fails at once under DEFERRED.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL: a START that was committed must survive a power cut, or a step could run twice.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }
        # A file, because worker threads and the web open connections of their own.
        database["TEST"] = {"NAME": DATA_DIR / "test.sqlite3"}
    elif database["ENGINE"] == "django.db.backends.postgresql":
        # What the address itself says goes before.
        database["OPTIONS"] = {**_POSTGRES_OPTIONS, **database.get("OPTIONS", {})}
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
    )
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "dashboard"
LOGOUT_REDIRECT_URL = "sign-in"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
# Files are served where they lie; browsers ask again each time, so an upgrade never mixes versions.
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = DEBUG
SERVESTATIC_MAX_AGE = 0

SESSION_COOKIE_AGE = 12 * 60 * 60
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = _HTTPS
SECURE_HSTS_SECONDS = 3600 * 24 * 30 if _HTTPS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 3 * 1024 * 1024
# The admin edits up to 500 rules, or 100 entries of a batch, in one form.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    },
}

REDIS_URL = os.environ.get("REDIS_URL", "")

# django-q2 carries hints ("run 7 may have work"); the runs themselves live in our tables.
Q_CLUSTER: dict[str, Any] = {
    "name": "stepsite",
    "workers": int(os.environ.get("STEPSITE_WORKERS", "2")),
    "queue_limit": 1,
    "bulk": 1,
    # The engine owns timeouts. A time-out or a redelivery by the queue would only get in its way.
    "timeout": 30 * 24 * 3600,
    "retry": 31 * 24 * 3600,
    "ack_failures": True,
    "max_attempts": 1,
    "save_limit": -1,
    "catch_up": False,
    # A float countdown compared with zero: only halves and quarters ever reach it.
    "guard_cycle": 0.5,
    "poll": 0.02,
    "scheduler": False,
    "orm": "default",
}
if REDIS_URL:
    Q_CLUSTER["redis"] = REDIS_URL

# What the steps and executions apps read; each key has a default in the app's conf.py.
STEPSITE: dict[str, Any] = {}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {name: {"level": "INFO"} for name in ("steps", "executions", "stepsite")},
}
