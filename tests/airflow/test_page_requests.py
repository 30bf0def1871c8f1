"""Requests to the page in this process, with an auth manager that separates rights: visibility, and a fuzz."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.events import RunStarted
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.web import security
from airflow_provider_backfill.web.api import create_app
from tests.state import START, chunks_of, make_plan, started

MARK = {"X-ClickHouse-Backfill": "1", "Authorization": "Bearer x"}
OF_ETL = make_plan(target="shop.etl", created_by="airflow:etl/run/plan#1")
OF_OTHERS = make_plan(target="shop.others", created_by="airflow:others/run/plan#1")
OF_NOBODY = make_plan(target="shop.typed", created_by="ada@workstation")
RUN_BY_ETL = make_plan(target="shop.run", created_by="ada@workstation")
DAMAGED = "0123456789abcdef"


class Person:
    """A user of Airflow, and an auth manager of one user: rights by DAG, or to all of them (``*``)."""

    def __init__(self, see: set[str], change: set[str] | None = None) -> None:
        self.rights = {"GET": see, "PUT": change or set()}

    def get_name(self) -> str:
        """What the log calls them."""
        return "erin"

    def is_authorized_dag(self, *, method: str, details: Any = None, **_: Any) -> bool:
        """As FAB's: without a DAG's name, some right is enough."""
        granted = self.rights[method]
        return bool(granted) if details is None else "*" in granted or details.id in granted


Page = Callable[[Person], TestClient]


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(FileBackend(tmp_path / "state"))
    for plan in (OF_ETL, OF_OTHERS, OF_NOBODY, RUN_BY_ETL):
        store.save_plan(plan)
    log = store.open_run(RUN_BY_ETL)
    log.append(RunStarted(at=START, by="airflow:etl/run/chunks#1"))
    log.append(started(RUN_BY_ETL, chunks_of(RUN_BY_ETL)[0]))
    (tmp_path / "state" / "plans" / f"{DAMAGED}.json").write_text("{")
    return store


@pytest.fixture
def page(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    app = create_app(lambda: Session(store, Options(), None, "airflow"))

    def of(person: Person) -> TestClient:
        app.dependency_overrides[get_user] = lambda: person
        monkeypatch.setattr(security, "get_auth_manager", lambda: person)
        return TestClient(app, raise_server_exceptions=False)

    return of


def _shown(client: TestClient) -> set[str]:
    return {plan["planId"] for plan in client.get("/api/plans").json()["plans"]}


def _seen(client: TestClient, *plans: Plan) -> list[int]:
    return [client.get(f"/api/plans/{plan.plan_id}").status_code for plan in plans]


def test_who_may_read_one_dag_sees_its_plans_only(page: Page) -> None:
    """A plan contains its SELECT and messages of the server; the right to list some DAG must not show all plans."""
    client = page(Person({"etl"}))
    assert _shown(client) == {OF_ETL.plan_id, RUN_BY_ETL.plan_id}
    assert _seen(client, OF_ETL, RUN_BY_ETL, OF_OTHERS, OF_NOBODY) == [200, 200, 404, 404]
    answer = client.get("/api/plans").json()
    assert (answer["damaged"], answer["total"], answer["verdict"]["evaluated"]) == ([], 2, 2)
    assert client.get(f"/api/plans/{DAMAGED}").status_code == 404
    chunk = chunks_of(OF_OTHERS)[0].id
    assert client.get(f"/api/plans/{OF_OTHERS.plan_id}/chunks/{chunk}").status_code == 404


def test_what_may_not_be_seen_looks_as_what_is_not_there(page: Page) -> None:
    client = page(Person({"etl"}))
    unseen, missing = (client.get(f"/api/plans/{name}").json() for name in (OF_OTHERS.plan_id, "f" * 16))
    assert str(unseen).replace(OF_OTHERS.plan_id, "") == str(missing).replace("f" * 16, "")


def test_plans_of_the_command_line_are_for_who_may_read_every_dag(page: Page) -> None:
    client = page(Person({"*"}))
    plans = (OF_ETL, OF_OTHERS, OF_NOBODY, RUN_BY_ETL)
    assert _shown(client) == {plan.plan_id for plan in plans}
    assert _seen(client, *plans) == [200] * 4
    assert client.get("/api/plans").json()["damaged"][0]["planId"] == DAMAGED


def test_acting_takes_the_right_to_change_the_plans_dag(page: Page) -> None:
    client = page(Person({"etl", "others"}, {"etl"}))
    said = [
        client.post(f"/api/plans/{plan.plan_id}/waive", json={"reason": "why"}, headers=MARK).status_code
        for plan in (OF_ETL, OF_OTHERS, OF_NOBODY)
    ]
    assert said == [200, 403, 404]
    assert client.get(f"/api/plans/{OF_ETL.plan_id}").json()["mayAct"] is True
    assert client.get(f"/api/plans/{OF_OTHERS.plan_id}").json()["mayAct"] is False
    assert client.get("/api/plans").json()["mayAct"] is False


def test_who_may_see_no_dag_sees_nothing(page: Page) -> None:
    client = page(Person(set()))
    for path in ("/", "/api/plans", f"/api/plans/{OF_ETL.plan_id}", "/static/app.js"):
        assert client.get(path).status_code == 403


# ---------------------------------------------------------------- fuzz

_WORDS = [
    *(
        "",
        " ",
        ".",
        "..",
        "%2e%2e%2f",
        "%00",
        "%ff",
        "\u202e",
        "😀",
        "x" * 5_000,
        "'",
        '"',
        "<script>",
        "{{x}}",
        "null",
    ),
    *(
        "0",
        "-1",
        "1",
        "9" * 19,
        "9" * 400,
        "1e9",
        "nan",
        "٣",
        "-62135596800000",
        "253402300799999",
        "true",
        "[]",
        "a=b",
    ),
    *(
        "2026-01-01",
        "9999-12-31T23:59:59Z",
        "0" * 16,
        "f" * 17,
        "app.js",
        "index.html",
        "../api.py",
        "planned",
        DAMAGED,
    ),
    *(plan.plan_id for plan in (OF_ETL, OF_OTHERS, OF_NOBODY, RUN_BY_ETL)),
    *(chunk.id for chunk in chunks_of(RUN_BY_ETL)),
]
_PATHS = [
    *(
        "/",
        "/plans/{}",
        "/run",
        "/static/{}",
        "/api/plans",
        "/api/plans/{}",
        "/api/plans/{}/chunks/{}",
        "/{}",
        "/api/{}",
    ),
    *("/api/plans/{}/cancel", "/api/plans/{}/resume", "/api/plans/{}/waive", "/api/plans/{}/{}"),
]
_PARAMETERS = ["q", "status", "since", "offset", "limit", "from", "to", "cells", "after", "dag", "run", "task", "x"]
_BODIES = [b"", b"{}", b"[]", b"null", b"{", b"\xff", b"[" * 50_000, b'{"reason":"x"}', b'{"reason":1e999}', b'{"x":1}']
_BODIES += [b'{"reason":"\\ud800"}', b'{"reason":"' + b"x" * 600 + b'"}', b'{"reason":"x","until":"2026"}']
_BODIES += [b'{"reason":"x","until":"9999-99"}', b'{"reason":" ","until":""}', b'{"reason":"\\u202e\\u001b[2J"}']


@pytest.mark.parametrize("requests", [150, pytest.param(2_000, marks=pytest.mark.long)])
def test_every_request_gets_an_answer_with_its_headers(page: Page, store: StateStore, requests: int) -> None:
    """Of who asks, something is wrong (4xx); the page itself never fails."""
    client = page(Person({"*"}, {"*"}))
    with Path(store.event_path(OF_OTHERS.plan_id)).open("ab") as file:
        file.write(b"\xff no event\n")
    bad = []
    for seed in range(requests):
        chance = random.Random(seed)  # noqa: S311 - the same requests each time
        path = chance.choice(_PATHS)
        path = path.format(*(chance.choice(_WORDS) for _ in range(path.count("{}"))))
        query = {chance.choice(_PARAMETERS): chance.choice(_WORDS) for _ in range(chance.randrange(4))}
        method = chance.choice(["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD"])
        headers = {"Accept": chance.choice(["text/html", "*/*"]), "Content-Type": "application/json"}
        headers |= MARK if chance.random() < 0.9 else {}
        body = chance.choice(_BODIES) if method == "POST" else None
        answer = client.request(method, path, params=query, headers=headers, content=body, follow_redirects=False)
        guarded = answer.headers.get("x-content-type-options") == "nosniff"
        if not (200 <= answer.status_code < 300 or 400 <= answer.status_code < 500) or not guarded:
            bad.append((seed, method, path[:80], query, body and body[:40], answer.status_code, answer.text[:200]))
    assert bad == []
