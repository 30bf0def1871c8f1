"""What helps is a value: the command line and the operators write it in their own words."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.errors import Advice, BackfillError, Command, Flag, Remedy, Sql, command_of


@pytest.mark.parametrize(
    ("remedy", "text"),
    [
        (Command("list"), "clickhouse-backfill list"),
        (
            Command("run", "0123456789abcdef", (Flag("--force"), Flag("--reason", "it's late"))),
            "clickhouse-backfill run --plan-id 0123456789abcdef --force --reason 'it'\"'\"'s late'",
        ),
        (Sql("SYSTEM STOP VIEW `a`.`b`"), "SYSTEM STOP VIEW `a`.`b`"),
        (Advice("leave the braces {} alone"), "leave the braces {} alone"),
        (
            Advice("pass {} or run `{}`", Flag("--force"), Command("list")),
            "pass --force or run `clickhouse-backfill list`",
        ),
        (
            Advice("first {}; then {}", Advice("pass {}", Flag("--to", "2025-01-02")), 3),
            "first pass --to 2025-01-02; then 3",
        ),
    ],
)
def test_the_words_of_the_command_line(remedy: Remedy, text: str) -> None:
    assert str(remedy) == text
    assert BackfillError("It broke.", remedy=remedy).hint == text
    assert str(BackfillError("It broke.", remedy=remedy)) == f"It broke. ({text})"


def test_a_flag_is_written_as_the_caller_likes_also_deep_inside() -> None:
    advice = Advice(
        "{}, or run `{}`", Advice("pass {}", Flag("--to", "x")), Command("plan", flags=(Flag("--to", "y"),))
    )
    assert advice.render(lambda flag: flag.value.upper()) == "pass X, or run `clickhouse-backfill plan --to y`"


def test_an_error_without_a_remedy() -> None:
    error = BackfillError("It broke.")
    assert (error.remedy, error.hint, str(error)) == (None, "", "It broke.")
    assert BackfillError("It broke.", hint="look").remedy == Advice("look")


def test_the_command_in_a_remedy() -> None:
    command = Command("repair", "0123456789abcdef")
    assert command_of(command) is command
    assert command_of(Advice("restore it with {}, or run {}", Flag("--force"), command)) is command
    assert command_of(Advice("look")) is None
    assert command_of(Sql("SELECT 1")) is None
    assert command_of(None) is None
