"""The settings of the site for the chaos tests: a queue of their own and a short drain."""

from __future__ import annotations

import os

from stepsite.settings import *  # noqa: F403
from stepsite.settings import Q_CLUSTER as _Q_CLUSTER

STEPSITE = {"DRAIN_SECONDS": float(os.environ.get("CHAOS_DRAIN", "1"))}
# The name is part of the queue's name in Redis.
Q_CLUSTER = {**_Q_CLUSTER, "name": os.environ.get("CHAOS_NAME", "chaos")}
# The password hash of the site takes longer than a restart.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
