"""Plans whose bounds and parts come from data: the stored values, and the run."""

import random
from datetime import timedelta

from airflow_provider_backfill.airflow_support.fields import mapped_items
from airflow_provider_backfill.core.chunking import encode_bounds
from airflow_provider_backfill.core.instants import from_ms, to_ms
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.core.replay import apply_event, filled_slices, new_run, select_chunks
from airflow_provider_backfill.core.run_state import ChunkStatus
from tests.state import START, done, make_plan, started

RANGES = ("(tenant) < 'm'", "(tenant) >= 'm'")


def unequal_plan(minutes: list[int], parts: dict[int, tuple[str, ...]] | None = None) -> Plan:
    bounds = [to_ms(START)]
    for length in minutes:
        bounds.append(bounds[-1] + length * 60_000)
    return make_plan(
        chunk_length="6|rows=1000",
        bounds=encode_bounds(bounds),
        chunk_count=len(minutes),
        end=from_ms(bounds[-1]),
        parts=parts or {},
    )


def test_chunks_lie_between_the_stored_bounds() -> None:
    plan = unequal_plan([360, 15, 30, 360])
    assert [chunk.end - chunk.start for chunk in plan.chunks()] == [
        timedelta(minutes=minutes) for minutes in (360, 15, 30, 360)
    ]
    assert Plan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan


def test_a_plan_of_100_000_unequal_chunks_stays_small() -> None:
    """A few bytes per chunk, for any lengths."""
    random.seed(1)
    plan = unequal_plan([random.randint(15, 360) for _ in range(100_000)])  # noqa: S311 - no secret
    data = plan.model_dump_json(by_alias=True)
    assert len(data) < 500_000
    assert sum(1 for _ in Plan.model_validate_json(data).slices()) == 100_000


def test_parts_take_the_place_of_their_window() -> None:
    """Counts, walk and ids know them; nothing else of the run does."""
    plan = unequal_plan([360, 15, 360], {1: RANGES})
    run = new_run(plan)
    assert (plan.chunk_count, plan.total_chunks, run.total) == (3, 4, 4)
    walked = list(select_chunks(plan, run))
    assert [chunk.key_range for chunk in walked] == ["", *RANGES, ""]
    assert walked[1][1:3] == walked[2][1:3]
    assert len({chunk.id for chunk in walked}) == 4
    assert len({plan.token(chunk) for chunk in walked}) == 4


def test_a_window_is_filled_when_all_its_parts_are() -> None:
    plan = unequal_plan([360, 15], {1: RANGES})
    run = new_run(plan)
    whole, heavy = plan.chunks()
    _, first, second = select_chunks(plan, run)
    for chunk, filled in ((first, []), (second, [(heavy.start, heavy.end)])):
        apply_event(run, started(plan, chunk))
        apply_event(run, done(chunk))
        assert list(filled_slices(run, heavy)) == filled
    assert list(filled_slices(run, whole)) == []
    assert run.count(ChunkStatus.DONE) == 2


def test_a_mapped_task_gets_all_parts_of_a_window() -> None:
    """Its item names windows, so two tasks would share one whose parts were torn apart."""
    plan = unequal_plan([360, 15, 360], {1: RANGES})
    items = list(mapped_items(plan, 2))
    assert [item["chunkCount"] for item in items] == [3, 1]
    assert items[0]["to"] == items[1]["from"]
    assert sum(item["chunkCount"] for item in mapped_items(plan, 100)) == 4
