"""
Who may look and who may act, by the rights of Airflow's own auth manager.

Looking takes the right to see DAG runs, acting the right to change DAGs and their runs, both for
all DAGs: a backfill belongs to none in particular. A custom view's right is not asked for, because
the simple auth manager grants it to every viewer, for every method.
"""

from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request

ACTION_HEADER = "x-clickhouse-backfill"
"""A header that a form or a foreign page cannot send without asking first; its value does not matter."""


def _may_view(user: BaseUser) -> bool:
    return bool(get_auth_manager().is_authorized_dag(method="GET", access_entity=DagAccessEntity.RUN, user=user))


def may_act(user: BaseUser) -> bool:
    """Whether the user may cancel, resume and waive."""
    manager = get_auth_manager()
    return bool(
        manager.is_authorized_dag(method="PUT", user=user)
        and manager.is_authorized_dag(method="PUT", access_entity=DagAccessEntity.RUN, user=user)
    )


def may_clear(user: BaseUser, dag_id: str) -> bool:
    """Whether Airflow would let the user clear tasks of a DAG."""
    details = DagDetails(id=dag_id)
    entity = DagAccessEntity.TASK_INSTANCE
    return bool(get_auth_manager().is_authorized_dag(method="PUT", access_entity=entity, details=details, user=user))


def viewer(user: GetUserDep) -> BaseUser:
    """
    The user, who may look.

    Raises:
        HTTPException: 401 without a login, 403 without the right.
    """
    if not _may_view(user):
        raise HTTPException(403, "You may not see DAG runs in this Airflow, nor its ClickHouse backfills.")
    return user


def actor(request: Request, user: GetUserDep) -> BaseUser:
    """
    The user, who may act and meant to.

    Raises:
        HTTPException: 401 without a login, 403 without the right or from another site, 415 without JSON.
    """
    _refuse_foreign(request)
    if not may_act(user):
        raise HTTPException(403, "You may look, and not act: this takes the right to change DAGs and their runs.")
    return user


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
