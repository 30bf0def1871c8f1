"""
What is looked at when a seed is over: rows, log, lights, and whatever is left; and whether advice that was given works.

A light is what the product says of a plan: ``check``, ``doctor`` and ``verify``. A seed also fails when one was green
over wrong data, or red over right data.
"""

from __future__ import annotations

import fcntl
import random
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_backfill.core.plan import RowProof
from airflow_provider_backfill.core.replay import select_chunks
from airflow_provider_backfill.core.run_state import ChunkStatus, Run
from airflow_provider_backfill.errors import PROGRAM
from tests.system.faults import tables

if TYPE_CHECKING:
    from tests.system.faults.arena import Front, Play

_COMMAND = re.compile(rf"`{PROGRAM} ([^`]*)`")
# What only a person can do: to find which rows of a chunk are missing among rows with the same keys.
_BY_HAND = "insert the missing rows from"


class Judge:
    """Judges one play; made when its tables are there and nothing has run yet."""

    def __init__(self, play: Play) -> None:
        self._play, self._layout, self._database = play, play.scenario.layout, play.database
        self._result = play.result
        self._random = random.Random(f"judge {play.scenario.name}")  # noqa: S311 - repeatable on purpose
        self._outside, self._before = self._meaning(self._layout.outside), self._meaning("1")

    def judge(self, fronts: list[Front]) -> None:
        """Follow the advice that was given, and note what is wrong then."""
        problems = self._result.problems
        for front in fronts:
            if front.refused and not self._follow(front, fronts):
                return
        client = self._play.arena.client
        self._play.arena.proxy.set("pass")
        problems += tables.difference(client, self._layout, self._database, late=bool(self._play.late))
        now_outside = self._meaning(self._layout.outside)
        if now_outside != self._outside:
            problems.append(f"outside: rows outside the window were {self._outside} and are {now_outside}")
        for front in fronts:
            self._judge_log(front, alone=len(fronts) == 1)
            front.log.refresh()
            if front.completed:
                self._judge_verify(front)
        # The tables of one front are no business of the other one's doctor.
        for front in fronts:
            self._clean(front)
        for front in fronts:
            self._judge_rest(front)
        for state in {front.state for front in fronts}:
            code, payload = self._play.call(["check"], state)
            if code:
                problems.append(f"check: {payload}")
        if problems or len(fronts) > 1:
            return
        if self._play.scenario.undo:
            self._undo(fronts[0])
        elif self._play.scenario.spoil and not self._play.late:
            how = self._play.scenario.spoil
            tables.spoil(client, self._layout, self._database, how)
            self._judge_verify(fronts[0], spoilt=how)

    def _meaning(self, window: str) -> tuple[int, int]:
        meaning = tables.KINDS[self._layout.kind].meaning
        select = meaning.format(table=f"{self._database}.target", window=window)
        return tables.content(self._play.arena.client, select)

    def _is_right(self) -> bool:
        """Whether the target, once merged, holds what the source gives now."""
        client = self._play.arena.client
        if self._play.late:
            return tables.same_as_source(client, self._database, self._layout)
        return tables.same_as_truth(client, self._database, self._layout)

    # -------------------------------------------------------- advice

    def _follow(self, front: Front, fronts: list[Front]) -> bool:
        """Do what a refusal says; False when only a person can, or the refusal is wrong."""
        play, problems = self._play, self._result.problems
        self._result.refused = front.refused
        play.arena.proxy.set("pass")
        code, payload = play.call(["check"], front.state)
        if not code:
            problems.append(f"light: check is green, and plan {front.plan.plan_id} was refused: {front.refused}")
        if play.scenario.rivals == "plans":
            # A worker that slept when its plan was refused may have filled a chunk since.
            again = "resume" if front.log.refresh().cancelled else "run"
            _, payload = play.call([again, "--plan-id", front.plan.plan_id], front.state)
            front.refused = f"{payload.get('error') or front.refused}; {payload.get('hint') or ''}"
        others = {other.plan.plan_id for other in fronts} - {front.plan.plan_id}
        if play.scenario.rivals == "plans" and not any(name in front.refused for name in others):
            problems.append(f"words: the refusal does not name the other plan {others}: {front.refused}")
        commands = [shlex.split(found) for found in _COMMAND.findall(front.refused)]
        if len(fronts) == 1:
            commands = commands[:1]
        elif play.scenario.rivals != "plans":
            # No other folder knows what is left to plan; here, all of the window was filled by the other one.
            commands = [["waive", "--plan-id", front.plan.plan_id, "--reason", "filled by the other folder"]]
        if not commands or (_BY_HAND in front.refused and commands[0][0] == "resume"):
            return False
        for words in commands:
            code, payload = play.call(words, front.state)
            if not code and words[0] == "plan":
                code, payload = play.call(["run", "--plan-id", payload["planId"]], front.state)
            if code:
                problems.append(f"words: the advice {shlex.join(words)} ended with {code}: {payload}")
        front.log.refresh()
        return not problems

    # -------------------------------------------------------- lights

    def _judge_verify(self, front: Front, *, spoilt: str = "") -> None:
        """Hold the verdict of ``verify`` against the truth."""
        right = self._is_right()
        _, payload = self._play.call(["verify", "--plan-id", front.plan.plan_id], front.state)
        if self._is_right() is not right:
            # A merge has made one of two rows that were doubled by hand.
            return
        verdict = payload.get("verdict", "none")
        wanted = "equal" if right else "differs"
        # What cannot be told must have been said by plan.
        if verdict != wanted and not (verdict == "inconclusive" and front.plan.verify_caveat):
            told = {name: payload.get(name) for name in ("verdict", "why", "differences", "changedChunks", "error")}
            data = f"{'right' if right else 'wrong'}{f' ({spoilt})' if spoilt else ''}"
            self._result.problems.append(f"light: the data are {data}, and verify says {told}")
        self._result.verdicts.append(f"{verdict} over {'right' if right else 'wrong'} data")

    # -------------------------------------------------------- the log

    def _judge_log(self, front: Front, *, alone: bool) -> None:
        problems, layout, plan = self._result.problems, self._layout, front.plan
        run = front.store.open_run(plan).run
        front.store.backend.retire(f"runs/{plan.plan_id}.json", "judged")
        replayed = front.store.open_run(plan).run
        if replayed != run:
            problems.append("log: the run replayed from the log is not the one in the run file")
        if layout.merges or not layout.by_chunk or layout.more:
            return
        # What each successful attempt saw is what the target holds, also where the source has changed since.
        if plan.row_proof is RowProof.WRITTEN and alone:
            problems += self._differing_parts(front, run)
        columns = ", ".join(f"`{name}`" for name in plan.summed(plan.statements[0]))
        time_column = tables.KINDS[layout.kind].time
        for chunk in select_chunks(plan, run):
            if not alone and run.state(chunk.id).status is not ChunkStatus.DONE:
                continue
            where = tables.between(time_column, chunk.start, chunk.end)
            select = f"SELECT {columns} FROM {self._database}.target WHERE {where}"
            held = tables.content(self._play.arena.client, select)
            recorded = run.state(chunk.id).content
            compared = 1 if plan.row_proof is RowProof.WRITTEN else 2
            if recorded is None or held[:compared] != tuple(recorded)[:compared]:
                problems.append(f"log: chunk {chunk.id} is recorded with {recorded}, the target holds {held}")

    def _differing_parts(self, front: Front, run: Run) -> list[str]:
        """Whether the parts that the log has as published are those of the window in the target."""
        hashed = "reinterpretAsUInt64(unhex(substring(uncompressed_hash_of_compressed_files, 1, 16)))"
        target = f"{self._database}.target"
        names = f"SELECT DISTINCT _part FROM {target} WHERE {self._layout.window}"
        question = (
            f"SELECT sum({hashed}) FROM system.parts WHERE active AND database = '{self._database}'"
            f" AND table = 'target' AND name IN ({names})"
        )
        held = self._play.arena.client.query(question).result_rows[0][0]
        contents = [run.state(chunk.id).content for chunk in select_chunks(front.plan, run)]
        recorded = sum(content.checksum for content in contents if content is not None) % 2**64
        return [] if held == recorded else [f"log: parts are recorded as {recorded}, the target holds {held}"]

    # -------------------------------------------------------- what is left

    def _clean(self, front: Front) -> None:
        """Do what the doctor says about tables and queries of a worker that died when the others had finished."""
        if not self._left(front):
            return
        _, payload = self._play.call(["doctor", "--plan-id", front.plan.plan_id], front.state)
        self._result.advice = True
        for finding in payload.get("findings", []):
            if finding["remedy"] == "sql":
                self._play.arena.client.command(finding["hint"])
            elif finding["code"] == "backfill_staging_orphaned":
                self._play.call(["clean", "--plan-id", front.plan.plan_id, "--yes"], front.state)

    def _judge_rest(self, front: Front) -> None:
        problems, plan = self._result.problems, front.plan
        if left := self._left(front):
            _, payload = self._play.call(["doctor", "--plan-id", plan.plan_id], front.state)
            problems += [f"left: {one} (the doctor says {payload.get('findings')})" for one in left]
        if front.completed:
            code, payload = self._play.call(["doctor", "--plan-id", plan.plan_id], front.state)
            if code or payload.get("issueCodes"):
                problems.append(f"doctor: {payload}")
        if self._play.scenario.bucket:
            # A lock there ends by itself when its holder is dead.
            return
        with (Path(front.state) / "locks" / f"{plan.plan_id}.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problems.append("left: the lock of the log is held")

    def _left(self, front: Front) -> list[str]:
        """Tables and queries of the plan that are still on the server, after a moment to end; not its backup."""
        deadline = time.monotonic() + 3
        while True:
            rows = self._play.arena.client.query(
                f"SELECT 'table ' || name FROM system.tables WHERE database = '{self._database}'"
                " AND startsWith(name, 'backfill_') AND NOT startsWith(name, 'backfill_backup_')"
                f" UNION ALL SELECT 'query ' || query_id FROM system.processes"
                f" WHERE startsWith(query_id, 'backfill-{front.plan.plan_id}')"
            ).result_rows
            found = sorted(name for (name,) in rows)
            if not any(name.startswith("query") for name in found) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _undo(self, front: Front) -> None:
        """Undo the plan, killed twice on the way, and hold that all is as it was."""
        problems, words = self._result.problems, ["undo", "--plan-id", front.plan.plan_id]
        for _ in range(2):
            self._play.call(words, front.state, kill_after=self._random.uniform(0.02, 0.4))
        code, payload = self._play.call(words, front.state)
        if code:
            problems.append(f"undo: ended with {code}: {payload}")
            return
        now = self._meaning("1")
        if now != self._before:
            problems.append(f"undo: the target held {self._before} and holds {now}")
        self._play.arena.client.command(payload["backup"]["drop"])
        problems += [f"left: {one} after undo" for one in self._left(front)]
        code, payload = self._play.call(["check"], front.state)
        if code:
            problems.append(f"check: after undo {payload}")
