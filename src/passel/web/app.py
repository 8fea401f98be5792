"""The web UI as routes for the server's application.

server = create_app(settings, …)
add_ui(server, Services(passel=…, surveyor=…))
"""

from __future__ import annotations

from passel.server.app import PasselServer
from passel.server.requests import Desk
from passel.web.cloud_routes import cloud_routes
from passel.web.node_routes import node_routes
from passel.web.pages import page_routes
from passel.web.passel_routes import passel_routes
from passel.web.ports import Services
from passel.web.task_routes import task_routes


def add_ui(server: PasselServer, services: Services) -> None:
    """Put pages, their data and map tiles beside the API, behind the same tokens and jobs."""
    desk = Desk(server.service, server.access)
    data = task_routes(desk, services), cloud_routes(desk), passel_routes(desk, services), node_routes(desk, services)
    for router in (page_routes(), *data):
        server.api.include_router(router)
