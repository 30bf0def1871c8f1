"""
Measure the page's requests to Airflow's API server: CPU per request with JSON, without HTTP and login.

There are 10,000 plans of 124 chunks, and one plan of 100,000 chunks of which four fifths are done.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.store import StateStore, open_store
from airflow_provider_backfill.web.views.overview import Overview
from benchmarks.frame import Row, in_turn, ratio_of
from tests.state import done, make_plan, started, verified

PLANS, CHUNKS, HUGE = 10_000, 124, 100_000
BAR, FIRST = 0.3, 0.5
OWNER = "worker-host:12345:67890123:abcdef12"

Ask = Callable[[], dict[str, Any]]


def measure(short: bool) -> list[Row]:
    """Return all figures of the page."""
    plans, huge = (200, 20_000) if short else (PLANS, HUGE)
    rounds = 5 if short else 15
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        many = open_store(str(root / "many"))
        for number in range(plans):
            _prepare(many, CHUNKS, CHUNKS if number % 2 else CHUNKS // 2, target=f"shop.orders_{number}")
        large = open_store(str(root / "large"))
        plan_id = _prepare(large, huge, huge * 4 // 5, hours=0.25)
        return [*_list(many, plans, rounds), *_plan(large, plan_id, huge, rounds)]


def _list(store: StateStore, plans: int, rounds: int) -> list[Row]:
    overview = _overview(store)
    first = _until_complete(overview.plans)
    version = overview.plans()["version"]
    whole, same = _alternate(rounds, overview.plans, lambda: overview.plans(since=version))
    return [
        Row(f"list of {plans:,} plans, first answer", first[0][1], "s", bar=FIRST),
        _first(f"list of {plans:,} plans", first),
        Row(f"list of {plans:,} plans, known", whole[0], "s", bar=BAR),
        Row(f"list of {plans:,} plans, poll without news", same[0], "s", *same[1:], "with news"),
    ]


def _plan(store: StateStore, plan_id: str, size: int, rounds: int) -> list[Row]:
    overview = _overview(store)
    name = f"plan of {size:,} chunks"
    first = _until_complete(lambda: overview.plan(plan_id))
    answer = overview.plan(plan_id)
    cells = answer["map"]["cells"]
    chunk = overview.plan(plan_id, start=cells[0][0], end=cells[0][1])["map"]["cells"][0][10]
    plan = store.load_plan(plan_id)
    log = store.open_run(plan)
    left = islice(plan.chunks(), size * 4 // 5, None)

    def with_news() -> dict[str, Any]:
        return overview.plan(plan_id, since="something else", after=answer["lastEvent"])

    def one_more() -> None:
        following = next(left)
        log.append(started(plan, following, by=OWNER))
        log.append(done(following, by=OWNER))

    whole, same = _alternate(
        rounds, with_news, lambda: overview.plan(plan_id, since=overview.plan(plan_id)["version"]), before=one_more
    )
    zoom, attempts = _alternate(
        rounds,
        lambda: overview.plan(plan_id, start=cells[3][0], end=cells[12][1]),
        lambda: overview.chunk(plan_id, chunk),
    )
    return [
        _first(name, first),
        Row(f"{name}, poll with news", whole[0], "s", bar=BAR),
        Row(f"{name}, poll without news (after one with)", same[0], "s", *same[1:], "with news"),
        Row(f"{name}, zoomed in", zoom[0], "s", bar=BAR),
        Row(f"{name}, attempts of one chunk", attempts[0], "s", bar=BAR, note="looks through the whole log"),
    ]


def _first(name: str, requests: list[tuple[float, float]]) -> Row:
    cpu, wall = (max(column) for column in zip(*requests, strict=True))
    total = sum(one[0] for one in requests)
    note = f"{len(requests)} requests, {total:.2f} s in all; the slowest took {wall:.2f} s of wall"
    return Row(f"{name}, slowest request of a first look", cpu, "s", bar=BAR, note=note)


def _until_complete(ask: Ask) -> list[tuple[float, float]]:
    """Return CPU and wall seconds of each request, until an answer is complete."""
    found = []
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = ask()
        json.dumps(answer)
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
        if answer["complete"]:
            return found


def _alternate(rounds: int, *asks: Ask, before: Callable[[], None] = lambda: None) -> list[tuple[float, float]]:
    """Return the CPU seconds of each request, and as a baseline those of the first request."""

    def work(ask: Ask) -> Callable[[], float]:
        def once() -> float:
            before()
            began = time.process_time()
            json.dumps(ask())
            return time.process_time() - began

        return once

    seconds = in_turn(rounds, *map(work, asks))
    return [ratio_of(mine, seconds[0]) for mine in seconds]


def _overview(store: StateStore) -> Overview:
    return Overview(Session(store, Options(), None, "benchmark"))


def _prepare(store: StateStore, chunks: int, finished: int, **wanted: Any) -> str:
    plan = make_plan(chunks, **wanted)
    store.save_plan(plan)
    log = store.open_run(plan)
    first, *others = islice(plan.chunks(), finished)
    log.append(started(plan, first, by=OWNER))
    # Write the rest in one write, since this is no benchmark of a run.
    with Path(store.event_path(plan.plan_id)).open("ab") as file:
        for end in (verified(first, by=OWNER), done(first, by=OWNER)):
            file.write(end.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")
        for chunk in others:
            for event in (started(plan, chunk, by=OWNER), verified(chunk, by=OWNER), done(chunk, by=OWNER)):
                file.write(event.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")
    log.refresh()
    log.write_checkpoint()
    return plan.plan_id
