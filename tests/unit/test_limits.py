"""Limits that are stated are held, and SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.planner import MAX_CHUNKS, check_window
from airflow_provider_backfill.errors import RequestError

ROOT = Path(__file__).parents[2]
START = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("force", [True, False])
def test_a_plan_of_more_chunks_than_are_shown_is_refused(force: bool) -> None:
    """4.7 million were taken, and then kept the page and the log from working."""

    def check(chunks: int) -> None:
        window = START, START + chunks * timedelta(minutes=15)
        check_window(*window, Chunking(hours=0.25), max_hours=1e9, min_chunk_minutes=15, force=force)

    check(MAX_CHUNKS)
    with pytest.raises(RequestError, match="over the limit of 1,000,000"):
        check(4_700_000)


def test_each_sentence_of_the_security_page_has_a_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py)`", text))
    assert len(named) > 5
    for name in named:
        assert list((ROOT / "tests").rglob(name)), name
    assert f"{MAX_CHUNKS:,} chunks" in text
    rules = [line for line in text.splitlines() if line.startswith("- ")]
    paragraphs = re.findall(r"^- .*?(?=^- |^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(rules) == len(paragraphs)
    for paragraph in paragraphs:
        assert "test_" in paragraph, paragraph
