"""
A SELECT as people keep it in files: surrounding text is removed, and text that would run something
else is refused.
"""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.select_text import Placeholder, read_select
from airflow_provider_backfill.errors import RequestError


@pytest.mark.parametrize(
    ("text", "select"),
    [
        ("SELECT a FROM t;\n-- end of file\n", "SELECT a FROM t"),
        ("SELECT a FROM t;\n;\n\n", "SELECT a FROM t"),
        ("\ufeffSELECT a FROM t", "SELECT a FROM t"),
        ("-- model\r\n/* x; y */\r\nSELECT a -- the a; not b\r\nFROM t\r\n", "SELECT a -- the a; not b\r\nFROM t"),
        ("#! a shebang\nSELECT 1", "SELECT 1"),
        ("(SELECT a FROM t)", "(SELECT a FROM t)"),
        ("SELECT ';' AS a, `b;c`, \"d;e\" FROM t", "SELECT ';' AS a, `b;c`, \"d;e\" FROM t"),
        ("SELECT 'it''s; \\'' FROM t -- done", "SELECT 'it''s; \\'' FROM t"),
        ("SELECT $doc$a; b$doc$ FROM t;", "SELECT $doc$a; b$doc$ FROM t"),
        ("SELECT format, into FROM t", "SELECT format, into FROM t"),
        ("SELECT a AS format FROM t", "SELECT a AS format FROM t"),
        ("SELECT format('{} {}', a, b) AS c FROM t", "SELECT format('{} {}', a, b) AS c FROM t"),
        ("SELECT a FROM t SETTINGS max_threads = 1", "SELECT a FROM t SETTINGS max_threads = 1"),
    ],
)
def test_only_the_ends_are_cut(text: str, select: str) -> None:
    """A semicolon in a text or a comment ends nothing, and nothing inside the SELECT changes."""
    assert read_select(text).select == select


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no SELECT"),
        ("  ;; -- nothing\n", "holds no SELECT"),
        ("SELECT 1; SELECT 2", "several statements"),
        ("INSERT INTO t SELECT 1", "begins with INSERT"),
        ("create view v as select 1", "begins with create|begins with CREATE"),
        ("SELECT a FROM t FORMAT JSON", "ends with FORMAT JSON"),
        ("SELECT a FROM t FORMAT Null SETTINGS a = 1", "ends with FORMAT Null"),
        ("SELECT a FROM t INTO OUTFILE 'x'", "ends with INTO OUTFILE"),
        ("SELECT a FROM {{ ref('t') }}", "template"),
        ("{% if x %} SELECT 1 {% endif %}", "template"),
    ],
)
def test_what_is_no_single_select_is_refused(text: str, message: str) -> None:
    """Dropping a part of the text silently would run another statement."""
    with pytest.raises(RequestError, match=message):
        read_select(text)


def test_parameters_are_found_where_they_stand() -> None:
    """A placeholder in a text or a comment is none."""
    text = """SELECT '{no:String}', ts -- {neither:Date}
    FROM s3('https://x/{day:String}/*.parquet') WHERE ts >= {chunk_from:DateTime64(3, 'UTC')}
    AND ts < { chunk_to : DateTime }
    AND ts > {chunk_from:DateTime64(3, 'UTC')}"""
    assert read_select(text).placeholders == (
        Placeholder("chunk_from", "DateTime64(3, 'UTC')"),
        Placeholder("chunk_to", "DateTime"),
    )


def test_settings_are_found_in_every_clause() -> None:
    """A setting of the SELECT can undo one that we send."""
    text = "SELECT * FROM (SELECT settings FROM t SETTINGS max_threads = 1, join_algorithm = 'hash') SETTINGS final = 1"
    assert read_select(text).settings == ("max_threads", "join_algorithm", "final")
