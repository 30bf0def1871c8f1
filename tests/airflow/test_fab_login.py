"""Who sees which plans under the FAB auth manager, which the compose file sets: real roles and real logins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.airflow.site import AirflowSite
from tests.state import make_plan

ROOT = "/clickhouse-backfills"
OF_ETL = make_plan(target="shop.etl", created_by="airflow:etl/run/plan#1")
OF_OTHERS = make_plan(target="shop.others", created_by="airflow:others/run/plan#1")
OF_NOBODY = make_plan(target="shop.typed", created_by="ada@workstation")
PLANS = (OF_ETL, OF_OTHERS, OF_NOBODY)
# A role for one DAG, to read or to change; Admin and Viewer are Airflow's own.
_PEOPLE = """
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

with get_application_builder() as builder:
    manager = builder.sm
    for name, more in {"erin": [], "olga": [("can_edit", "DAG:etl"), ("can_edit", "DAG Runs")]}.items():
        role = manager.add_role(name)
        for action, resource in [("can_read", "DAG:etl"), ("can_read", "DAG Runs"), ("can_read", "Website"), *more]:
            manager.add_permission_to_role(role, manager.create_permission(action, resource))
        manager.add_user(name, name, name, f"{name}@example.org", role, password=name)
    for name, role in {"ada": "Admin", "vera": "Viewer"}.items():
        manager.add_user(name, name, name, f"{name}@example.org", manager.find_role(role), password=name)
"""


class FabSite(AirflowSite):
    """An API server with FAB's auth manager; the password of each person is their name."""

    def start(self, timeout: float = 300) -> AirflowSite:
        """Make the people once the database is there, and start the server."""
        self.environment["AIRFLOW__CORE__AUTH_MANAGER"] = (
            "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        )
        self.home.mkdir(parents=True, exist_ok=True)
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        for command in (migrate, [sys.executable, "-c", _PEOPLE]):
            subprocess.run(command, check=True, env=self.environment, capture_output=True, timeout=timeout)
        return super().start(timeout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    state = tmp_path_factory.mktemp("fab-state")
    for plan in PLANS:
        StateStore(FileBackend(state)).save_plan(plan)
    with FabSite(tmp_path_factory.mktemp("fab-home"), state) as site:
        yield site


def _bearer(site: AirflowSite, user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.token(user)}", "X-ClickHouse-Backfill": "1"}


@pytest.mark.parametrize(
    ("user", "visible"), [("erin", (OF_ETL,)), ("olga", (OF_ETL,)), ("ada", PLANS), ("vera", PLANS)]
)
def test_a_role_for_one_dag_sees_the_plans_of_that_dag(site: AirflowSite, user: str, visible: tuple[Plan, ...]) -> None:
    bearer, expected = _bearer(site, user), {plan.plan_id for plan in visible}
    status, answer = site.call("GET", f"{ROOT}/api/plans", headers=bearer)
    assert status == 200, answer
    assert {plan["planId"] for plan in answer["plans"]} == expected
    seen = {
        plan.plan_id for plan in PLANS if site.call("GET", f"{ROOT}/api/plans/{plan.plan_id}", headers=bearer)[0] == 200
    }
    assert seen == expected


@pytest.mark.parametrize(
    ("user", "codes"), [("erin", [403, 404, 404]), ("vera", [403, 403, 403]), ("olga", [200, 404, 404])]
)
def test_acting_takes_the_right_to_change_that_dag(site: AirflowSite, user: str, codes: list[int]) -> None:
    said = [
        site.call("POST", f"{ROOT}/api/plans/{plan.plan_id}/waive", {"reason": "why"}, _bearer(site, user))[0]
        for plan in PLANS
    ]
    assert said == codes


def test_without_a_login_nothing_is_shown(site: AirflowSite) -> None:
    for path in ("/api/plans", f"/api/plans/{OF_ETL.plan_id}"):
        assert site.call("GET", f"{ROOT}{path}")[0] == 401
