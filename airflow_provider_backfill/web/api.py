"""
Serve the page: one HTML page, its static files, its JSON, and its actions.

Each route checks the user's rights and sends the result of a function. :mod:`..plugin` mounts the application in
Airflow's API server at ``/clickhouse-backfills``.
"""

import hashlib
import html
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from ..commands.cancel import cancel_plan
from ..commands.reopen import reopen_plan
from ..commands.session import Session
from ..commands.waive import waive_plan
from ..core.instants import parse_instant
from ..core.names import parse_table
from ..core.plain_text import plain_values
from ..errors import BackfillError, ConfigError, DamagedStateError, PlanNotFoundError, RequestError, TransitionError
from ..ui_urls import ROUTE, task_path
from .security import Actor, Rights, Viewer, may_clear
from .views.overview import SORTS, Overview

_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
_REASON = Field("", max_length=500)
# The first and the last millisecond of the years 1 to 9999, in Unix time. _MOST exceeds the number of all plans and of
# all lines of a log.
_FIRST, _LAST, _MOST = -62_135_596_800_000, 253_402_300_799_999, 10**12


class CancelBody(BaseModel):
    """The request body of a cancel; the reason goes to the event log."""

    model_config = ConfigDict(extra="forbid")

    reason: str = _REASON


class WaiveBody(BaseModel):
    """The request body of a waiver; *until* is empty for a waiver without an end."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(max_length=500)
    until: str = Field("", max_length=40)


class ResumeBody(BaseModel):
    """The empty request body of a resume."""

    model_config = ConfigDict(extra="forbid")


def create_app(open_session: Callable[[], Session]) -> FastAPI:
    """
    Return the web application of the page.

    Args:
        open_session: Opens the state folder with the options; called at the first request, and at each further request
            until a call succeeds.
    """
    # Disable the generated documentation: its page would be public and load third-party scripts.
    app = FastAPI(title="ClickHouse Backfills", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    held: list[Overview] = []

    def overview() -> Overview:
        if not held:
            held.append(Overview(open_session()))
        return held[0]

    def seen(user: BaseUser, plan_id: str) -> bool:
        """
        Return whether the user may act on a plan.

        Raises:
            RequestError: *plan_id* is not a plan id.
            PlanNotFoundError: The plan does not exist, or the user may not see the plan.
            DamagedStateError: The plan's files are damaged, and the user may see all plans.
        """
        rights = Rights(user)
        try:
            dag_ids = overview().dag_ids(plan_id)
        except (PlanNotFoundError, DamagedStateError):
            if rights.may_see(()):
                raise
            raise _unseen(plan_id) from None
        if not rights.may_see(dag_ids):
            raise _unseen(plan_id)
        return rights.may_act(dag_ids)

    def acting(user: BaseUser, plan_id: str) -> Session:
        if not seen(user, plan_id):
            raise HTTPException(403, "You may look, and not act: this takes the right to change the plan's DAG.")
        return replace(overview().session, user=f"{user.get_name()} (Airflow)")

    @app.middleware("http")
    async def headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await call_next(request)
        except Exception:
            # Errors are caught here too, so that this answer also has the security headers.
            logging.getLogger(__name__).exception("No answer to %s", request.url.path)
            response = _answer(
                {"error": "An error occurred; the log of the API server has the details.", "hint": ""}, 500
            )
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.exception_handler(BackfillError)
    def told(_: Request, error: BackfillError) -> Response:
        return _answer({"error": error.message, "hint": error.hint}, _status(error))

    @app.exception_handler(RequestValidationError)
    def misasked(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return _answer({"error": f"{place}: {first['msg']}" if place else first["msg"], "hint": ""}, 422)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        base = request.scope.get("root_path", "")
        if error.status_code == 401 and "text/html" in request.headers.get("accept", ""):
            # The request came from a person who opened the address, not from the page.
            api = base.rpartition("/")[0]
            return Response(
                status_code=303,
                headers={"Location": f"{api}/api/v2/auth/login?next={quote(str(request.url), safe='')}"},
            )
        return _answer({"error": error.detail, "hint": ""}, error.status_code)

    # The routes of the page and its static files.

    @app.get("/")
    @app.get("/plans/{plan_id}")
    @app.get("/table")
    @app.get("/run")
    def page(request: Request, _: Viewer) -> Response:
        base = request.scope.get("root_path", "").rstrip("/") + "/"
        text = _file("index.html").decode().replace("{{base}}", html.escape(base, quote=True))
        return Response(text, media_type="text/html", headers={"Cache-Control": "no-cache"})

    @app.get("/static/{name}")
    def static(request: Request, name: str, _: Viewer) -> Response:
        kind = _TYPES.get(name.rpartition(".")[2])
        if kind is None or "/" in name or name == "index.html" or name.startswith("."):
            raise HTTPException(404, "There is no such file.")
        try:
            data = _file(name)
        except FileNotFoundError:
            raise HTTPException(404, "There is no such file.") from None
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        known = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=known)
        return Response(data, media_type=kind, headers=known)

    # The routes that return JSON.

    @app.get("/api/plans")
    def plans(
        user: Viewer,
        q: Annotated[str, Query(max_length=200)] = "",
        status: Annotated[str, Query(pattern="^[a-z]{0,20}$")] = "",
        since: Annotated[str, Query(max_length=40)] = "",
        offset: Annotated[int, Query(ge=0, le=_MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        sort: Annotated[str, Query(pattern=f"^(?:{'|'.join(SORTS)})?$")] = "",
        falling: bool = False,
    ) -> Response:
        rights = Rights(user)
        found = overview().plans(
            search=q.strip(),
            status=status,
            since=since,
            offset=offset,
            limit=limit,
            sort=sort,
            falling=falling,
            may_see=rights.may_see,
        )
        return _answer(_signed(found, user, rights.may_act(())))

    @app.get("/api/table")
    def table(
        user: Viewer,
        target: Annotated[str, Query(max_length=500)],
        since: Annotated[str, Query(max_length=40)] = "",
    ) -> Response:
        rights = Rights(user)
        found = overview().table(parse_table(target, "target"), since=since, may_see=rights.may_see)
        return _answer(_signed(found, user, rights.may_act(())))

    @app.get("/api/plans/{plan_id}")
    def plan(
        user: Viewer,
        plan_id: str,
        since: Annotated[str, Query(max_length=40)] = "",
        start: Annotated[int | None, Query(alias="from", ge=_FIRST, le=_LAST)] = None,
        end: Annotated[int | None, Query(alias="to", ge=_FIRST, le=_LAST)] = None,
        cells: Annotated[int, Query(ge=1, le=6_000)] = 1_500,
        after: Annotated[int, Query(ge=0, le=_MOST)] = 0,
    ) -> Response:
        may = seen(user, plan_id)
        found = overview().plan(plan_id, since=since, start=start, end=end, cells=cells, after=after)
        for run in found["airflow"]["runs"] if found["changed"] else ():
            run["mayClear"] = may_clear(user, run["dagId"])
        return _answer(_signed(found, user, may))

    @app.get("/api/plans/{plan_id}/chunks/{chunk_id}")
    def chunk(request: Request, user: Viewer, plan_id: str, chunk_id: str) -> Response:
        seen(user, plan_id)
        found = overview().chunk(plan_id, chunk_id)
        airflow = request.scope.get("root_path", "").removesuffix(f"/{ROUTE}")
        for one in found["attempts"]:
            path = task_path(one["onBehalfOf"])
            one["task"] = f"{airflow}{path}" if path else ""
        return _answer(found)

    # The routes that change a plan.

    @app.post("/api/plans/{plan_id}/cancel")
    def cancel(user: Actor, plan_id: str, body: CancelBody) -> Response:
        return _answer(cancel_plan(acting(user, plan_id), plan_id, reason=body.reason.strip()))

    @app.post("/api/plans/{plan_id}/resume")
    def resume(user: Actor, plan_id: str, _: ResumeBody) -> Response:
        return _answer(reopen_plan(acting(user, plan_id), plan_id))

    @app.post("/api/plans/{plan_id}/waive")
    def waive(user: Actor, plan_id: str, body: WaiveBody) -> Response:
        until = parse_instant(body.until) if body.until.strip() else None
        return _answer(waive_plan(acting(user, plan_id), plan_id, reason=body.reason, until=until))

    return app


def _unseen(plan_id: str) -> PlanNotFoundError:
    return PlanNotFoundError(f"There is no plan {plan_id[:40]} that you may see.", hint="ask who may read its DAG")


def _signed(payload: dict[str, Any], user: BaseUser, may_act: bool) -> dict[str, Any]:
    """Return a payload with the viewer's name and right to act; a payload that reports no change stays as it is."""
    return {**payload, "user": user.get_name(), "mayAct": may_act} if payload["changed"] else payload


def _answer(payload: dict[str, Any], status: int = 200) -> Response:
    # Serialise plain JSON directly: FastAPI's own encoder would traverse all values again.
    text = json.dumps(payload, separators=(",", ":"))
    if "\\u" in text:
        # A name outside ASCII may contain a mark that changes the reading direction.
        text = json.dumps(plain_values(payload, lines=True), separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _file(name: str) -> bytes:
    return (files(__package__) / "static" / name).read_bytes()


def _status(error: BackfillError) -> int:
    match error:
        case TransitionError() | DamagedStateError():
            return 409
        case PlanNotFoundError():
            return 404
        case RequestError():
            return 400
        case ConfigError():
            return 500
        case _:
            # The state folder fails, perhaps only for a while.
            return 503
