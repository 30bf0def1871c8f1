"""
Permissions to view and to act, as Airflow's own auth manager grants them.

Looking takes the right to see DAG runs, acting the right to change DAGs and their runs: of the DAGs
that a plan was made in or ran for, or of every DAG where it is of the command line. A custom view's
right is not asked for, because the simple auth manager grants it to every viewer, for every method.
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
"""A header that a form or a foreign page cannot send without asking first; its value does not matter."""


# No DAG has this name: a user who may read it may read all. Without a name, auth managers answer for *some* DAG.
_EVERY_DAG = "clickhouse-backfill: every DAG"


class Rights:
    """
    A user's permissions during one request.

    A plan belongs to the DAGs that it was planned in or ran for; one of the command line belongs to none, and is
    for those who have the right to every DAG.
    """

    def __init__(self, user: BaseUser) -> None:
        self._user = user
        self._known: dict[tuple[str, str], bool] = {}

    def may_see(self, dag_ids: Collection[str]) -> bool:
        """Return whether the user may see a plan of these DAGs: the runs of one of them are for this user to read."""
        return any(self._may("GET", dag_id) for dag_id in (*dag_ids, _EVERY_DAG))

    def may_act(self, dag_ids: Collection[str]) -> bool:
        """Return whether the user may cancel, resume and waive a plan of these DAGs: all of them may be changed."""
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
    Return a user with the right to view.

    Raises:
        HTTPException: 401 without a login, 403 without the right.
    """
    # The right to some DAG; which plans that opens, Rights says.
    if not get_auth_manager().is_authorized_dag(method="GET", user=user):
        raise HTTPException(403, "You may not see DAGs in this Airflow, nor its ClickHouse backfills.")
    return user


def actor(request: Request, user: GetUserDep) -> BaseUser:
    """
    Return the user behind an action; the plan decides whether the action is allowed.

    Raises:
        HTTPException: 401 without a login, 403 without the right to look or from another site, 415 without JSON.
    """
    _refuse_foreign(request)
    return viewer(user)


def _refuse_foreign(request: Request) -> None:
    """Let nobody borrow a user's cookie: the request must come from a page of this Airflow."""
    if ACTION_HEADER not in request.headers:
        raise HTTPException(403, f"The header {ACTION_HEADER} is missing.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON, with the content type application/json.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This comes from another site.")
    origin = request.headers.get("origin")
    if origin is None:
        # A program with a token of its own has no origin, and no cookie that could be borrowed.
        if not request.headers.get("authorization", "").lower().startswith("bearer "):
            raise HTTPException(403, "The origin is missing.")
        return
    ours = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="") or "").netloc}
    if urlsplit(origin).netloc not in ours - {""}:
        raise HTTPException(403, "This comes from another origin.")


Viewer = Annotated[BaseUser, Depends(viewer)]
Actor = Annotated[BaseUser, Depends(actor)]
