"""
The services of docker-compose.yaml with Celery and the state in S3, as processes; see services.py.

Needs the group celery (``uv run --group celery pytest -m long``), PostgreSQL and Redis.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.system.airflow.services import QUICK, SLOW, Services, services
from tests.system.airflow.stack import wait_for

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    pytest.importorskip("airflow.providers.celery", reason="uv run --group celery has the CeleryExecutor")
    with services(tmp_path_factory.mktemp("services")) as found:
        yield found


def test_a_backfill_goes_through_two_workers_with_its_state_in_s3(running: Services) -> None:
    """No disk is shared: what one worker knows of the other's chunks comes from the store."""
    found = running.end(running.start(QUICK))
    assert found["run"] == "success", found
    (plan,) = found["plans"]
    assert plan["status"] == "completed"
    assert plan["chunkCounts"]["done"] == plan["chunkCounts"]["total"] == plan["attempts"] == 4
    assert all(found["tasksOfWorkers"].values()), found["tasksOfWorkers"]
    assert found["target"] == found["source"]


def test_what_a_stopped_worker_had_is_done_by_the_other(running: Services) -> None:
    """SIGTERM to all of its processes: the chunk is given back at once, not when its claim ends."""
    run = running.start(SLOW)
    wait_for(lambda: running.queries() == 2, "both workers are at it", 120)
    running.airflow.kill_component("worker-1", signal.SIGTERM, timeout=30)
    assert running.queries() <= 1
    found = running.end(run)
    assert found["run"] == "success", found
    (plan,) = found["plans"]
    assert plan["status"] == "completed"
    assert plan["attempts"] == 5, "one chunk was begun twice"
    assert found["target"] == found["source"]
