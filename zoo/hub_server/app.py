"""All routes in one ASGI application."""

from __future__ import annotations

import errno

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from zoo.errors import ZooError
from zoo.hub_server import commits, content, discussions, downloads, repos, uploads, xet_routes
from zoo.hub_server.errors import Refusal
from zoo.hub_server.guard import patient
from zoo.hub_server.http import Hub, dispatch, refuse
from zoo.hub_server.settings import HubSettings
from zoo.hub_server.store import Store

_MODULES = (repos, discussions, content, commits, uploads, xet_routes, downloads)

ROUTES = tuple(route for module in _MODULES for route in module.ROUTES)
"""In the order in which they are tried: those that begin with a name come last."""


def hub_app(store: Store, settings: HubSettings | None = None) -> ASGIApp:
    """The ASGI application that serves `store`."""
    hub = Hub(store, settings or HubSettings())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await dispatch(hub, ROUTES, Request(scope, patient(receive, hub.settings.limits.idle_s)))
        except ClientDisconnect:
            return
        except (OSError, ZooError) as error:
            response = refuse(_disk_refusal(error))
        await response(scope, receive, send)

    return app


def _disk_refusal(error: OSError | ZooError) -> Refusal:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal(507, "The disk of this Hub is full")
    return Refusal(500, f"The Hub's disk: {error}")
