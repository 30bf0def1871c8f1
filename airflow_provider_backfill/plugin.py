"""
Airflow's way to the page: a web application in the API server and an entry in the navigation.

Every Airflow process imports this file, and only the API server asks for the application, so
what it needs is imported when it is asked for.
Registered by the entry point group ``airflow.plugins``: plugins that stand in a provider's
metadata are loaded only where ``[core] lazy_discover_providers`` is switched off.
"""

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from .ui_urls import ROUTE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .commands.session import Session


_ICONS = {"icon": f"{ROUTE}/static/icon.svg", "icon_dark_mode": f"{ROUTE}/static/icon-dark.svg"}


class ClickHouseBackfillPlugin(AirflowPlugin):
    """The page "ClickHouse Backfills"."""

    name = "clickhouse_backfill"
    # An entry of the navigation, and tabs of the DAG run and of the task; since Airflow 3.1, older ones look past them.
    # Relative to Airflow's base address, wherever that is.
    external_views = [  # noqa: RUF012 - Airflow reads it from the class
        {
            "name": "ClickHouse Backfills",
            "href": f"{ROUTE}/",
            "url_route": ROUTE,
            "destination": "nav",
            # The top level cuts the name after "ClickHou".
            "category": "browse",
            **_ICONS,
        },
        {
            "name": "ClickHouse Backfill",
            "href": f"{ROUTE}/run?dag={{DAG_ID}}&run={{RUN_ID}}",
            "url_route": f"{ROUTE}-of-run",
            "destination": "dag_run",
            **_ICONS,
        },
        {
            "name": "ClickHouse Backfill",
            "href": f"{ROUTE}/run?dag={{DAG_ID}}&run={{RUN_ID}}&task={{TASK_ID}}&index={{MAP_INDEX}}",
            "url_route": f"{ROUTE}-of-task",
            "destination": "task_instance",
            **_ICONS,
        },
    ]
    _app: "FastAPI | None" = None

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]  # a list in the base class, made late here
        """The application, made when the API server first asks."""
        if self._app is None:
            from .web.api import create_app

            type(self)._app = create_app(_open_session)
        return [{"app": self._app, "url_prefix": f"/{ROUTE}", "name": "ClickHouse Backfills"}]


def _open_session() -> "Session":
    """
    Return the state folder and the options as operators see them.

    No server, because workers hold the connections.
    """
    from .airflow_support.session import load_airflow_options, open_session

    return open_session(load_airflow_options({}), "airflow")
