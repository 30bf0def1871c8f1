"""
Register the page with Airflow: a web application in the API server and entries in the navigation.

Every Airflow process imports this file, but only the API server needs the application, which is therefore imported
late. The entry point group ``airflow.plugins`` registers the plugin, because Airflow loads plugins from a provider's
metadata only if ``[core] lazy_discover_providers`` is off.
"""

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from .ui_urls import ROUTE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .commands.session import Session


_ICONS = {"icon": f"{ROUTE}/static/icon.svg", "icon_dark_mode": f"{ROUTE}/static/icon-dark.svg"}


class ClickHouseBackfillPlugin(AirflowPlugin):
    """A plugin that adds the page "ClickHouse Backfills", its navigation entry and its tabs to Airflow."""

    name = "clickhouse_backfill"
    # An entry of the navigation, and tabs of the DAG run and of the task. Airflow before 3.1 ignores these views.
    # Addresses are relative to Airflow's base address.
    external_views = [  # noqa: RUF012 - Airflow reads it from the class
        {
            "name": "ClickHouse Backfills",
            "href": f"{ROUTE}/",
            "url_route": ROUTE,
            "destination": "nav",
            # At the top level, the navigation would cut the name after "ClickHou".
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
        """Return a list of one dict with the application, its address and its name; created at the first call."""
        if self._app is None:
            from .web.api import create_app

            type(self)._app = create_app(_open_session)
        return [{"app": self._app, "url_prefix": f"/{ROUTE}", "name": "ClickHouse Backfills"}]


def _open_session() -> "Session":
    """
    Return a session on the state folder, with the options that operators use.

    The session has no server, because only workers have connections.
    """
    from .airflow_support.session import load_airflow_options, open_session

    return open_session(load_airflow_options({}), "airflow")
