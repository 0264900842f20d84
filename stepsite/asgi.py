"""What an ASGI server serves: pages and the API over HTTP, live views over sockets."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "stepsite.settings")
pages = get_asgi_application()

from executions.routing import sockets  # noqa: E402  (needs Django to be set up)

application = ProtocolTypeRouter({"http": pages, "websocket": sockets})
