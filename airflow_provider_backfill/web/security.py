"""
Check permissions to view and to act, as granted by Airflow's auth manager.

To view a plan, a user needs the right to read the runs of one of the DAGs that planned or ran the plan. To act, the
user needs the right to change all of these DAGs and their runs. A plan of the command line needs the right to all DAGs.
The right to a custom view is not used, because the simple auth manager grants that right to every viewer.
"""

from collections.abc import Collection
from typing import Annotated, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request

ACTION_HEADER = "x-clickhouse-backfill"
"""A header that forms and foreign pages cannot send without a preflight request; its value is irrelevant."""


# The name of no DAG: a user with a right to this name has the right to all DAGs. Without a name, auth managers answer
# whether the user has the right to *some* DAG.
_EVERY_DAG = "clickhouse-backfill: every DAG"


class Rights:
    """
    A user's permissions during one request.

    A plan belongs to the DAGs that planned or ran it. A plan of the command line belongs to no DAG, and needs the right
    to all DAGs.
    """

    def __init__(self, user: BaseUser) -> None:
        self._user = user
        self._known: dict[tuple[str, str], bool] = {}

    def may_see(self, dag_ids: Collection[str]) -> bool:
        """Return whether the user may see a plan of these DAGs. One of the DAGs suffices, or the right to all DAGs."""
        return any(self._may("GET", dag_id) for dag_id in (*dag_ids, _EVERY_DAG))

    def may_act(self, dag_ids: Collection[str]) -> bool:
        """
        Return whether the user may cancel, resume and waive a plan of these DAGs.

        The user needs the right to change each of these DAGs and their runs; without *dag_ids*, every DAG and its runs.
        """
        return self._may("PUT", _EVERY_DAG) or (bool(dag_ids) and all(self._may("PUT", dag_id) for dag_id in dag_ids))

    def _may(self, method: Literal["GET", "PUT"], dag_id: str) -> bool:
        if (method, dag_id) not in self._known:
            manager, details = get_auth_manager(), DagDetails(id=dag_id)
            run = DagAccessEntity.RUN
            self._known[method, dag_id] = bool(
                manager.is_authorized_dag(method=method, access_entity=run, details=details, user=self._user)
                and (method == "GET" or manager.is_authorized_dag(method=method, details=details, user=self._user))
            )
        return self._known[method, dag_id]


def may_clear(user: BaseUser, dag_id: str) -> bool:
    """Return whether Airflow would let the user clear tasks of a DAG."""
    details = DagDetails(id=dag_id)
    entity = DagAccessEntity.TASK_INSTANCE
    return bool(get_auth_manager().is_authorized_dag(method="PUT", access_entity=entity, details=details, user=user))


def viewer(user: GetUserDep) -> BaseUser:
    """
    Return the user if the user may view some DAG.

    Raises:
        HTTPException: 401 without a login; 403 without the right.
    """
    # Check only the right to some DAG here. Rights decides later which plans the user may view.
    if not get_auth_manager().is_authorized_dag(method="GET", user=user):
        raise HTTPException(403, "You may not see DAGs in this Airflow, nor its ClickHouse backfills.")
    return user


def actor(request: Request, user: GetUserDep) -> BaseUser:
    """
    Return the user behind an action. :class:`Rights` decides later whether the user may act on the plan.

    Raises:
        HTTPException: 401 without a login; 403 without the right to view, or for a request from another site; 415
            without JSON.
    """
    _refuse_foreign(request)
    return viewer(user)


def _refuse_foreign(request: Request) -> None:
    """
    Refuse requests that use a user's cookie from another site.

    Accept requests from a page of this Airflow, and requests without an origin that have a bearer token.

    Raises:
        HTTPException: 403 for any other request; 415 if the content is not JSON.
    """
    if ACTION_HEADER not in request.headers:
        raise HTTPException(403, f"The header {ACTION_HEADER} is missing.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON, with the content type application/json.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "The request comes from another site.")
    origin = request.headers.get("origin")
    if origin is None:
        # A program with a bearer token sends no origin, and no cookie that another site could use.
        if not request.headers.get("authorization", "").lower().startswith("bearer "):
            raise HTTPException(403, "The origin is missing.")
        return
    ours = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="") or "").netloc}
    if urlsplit(origin).netloc not in ours - {""}:
        raise HTTPException(403, "The request comes from another origin.")


Viewer = Annotated[BaseUser, Depends(viewer)]
Actor = Annotated[BaseUser, Depends(actor)]
