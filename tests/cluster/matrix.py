"""
The matrix: ways to replicate, engines, write modes and faults, played on a real cluster behind a random balancer.

``python -m tests.cluster.matrix --seeds 20 --out plays.ndjson`` plays all of it, and goes on where it was stopped;
``--fault`` and ``--kind`` choose, and with ``--shards 2`` one plan fills two shards of two replicas each. It prints a
table as docs/explanation/replicas-and-upgrades.md has it, and ends with 1 when a cell is wrong. A play is right when
every replica has each row of its shard's source once, ``check`` and ``verify`` say so, and nothing of ours is left
anywhere.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airflow_provider_backfill.cli.main import main as call
from airflow_provider_backfill.clickhouse import cluster as replicas
from tests.cluster import impatient
from tests.cluster.balancer import Balancer
from tests.cluster.field import Field, Kind
from tests.cluster.nodes import Cluster, Node, why_not_here
from tests.command_line import PROGRAM, Answer, Cli, finish

ENGINES = ("MergeTree", "ReplacingMergeTree", "SummingMergeTree(amount)")
MODES = ("stage", "replace")
ROWS = 1_000
# In "stage", chunks share the two partitions and a staging table; in "replace", a chunk is a partition.
_DAYS = {"stage": 14, "replace": 31}
# No run has fewer statements, from the first of its own to the last; a Replicated database needs no ON CLUSTER.
_STATEMENTS = {"stage": 34, "replace": 28}
_FEWER_IN_A_DATABASE = 9
# So many runs may pass before everything works again, and so many after that.
_WILD, _CALM = 2, 6
# Longer than any run here takes.
_PATIENCE = 120


@dataclass(frozen=True)
class Scenario:
    """One play."""

    kind: Kind
    engine: str
    mode: str
    fault: str
    seed: int
    shards: int = 1

    def __str__(self) -> str:
        where = "" if self.shards == 1 else f", {self.shards} shards"
        return f"{self.fault}, {self.mode}, {self.engine}, {self.kind}{where}, seed {self.seed}"


@dataclass
class Play:
    """
    A scenario under way.

    Attributes:
        by_itself: One in front of each node of the first shard, for a worker that must reach this node.
    """

    ground: Field
    scenario: Scenario
    by_itself: tuple[Balancer, ...] = ()
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    timers: list[threading.Timer] = field(default_factory=list)
    struck: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(str(self.scenario))  # noqa: S311 - repeatable on purpose
        self._count = itertools.count()
        fewer = _FEWER_IN_A_DATABASE if self.scenario.kind is Kind.DATABASE else 0
        self._at = self.chance.randrange(_STATEMENTS[self.scenario.mode] - fewer)

    @property
    def victim(self) -> Node:
        """The replica that is struck."""
        nodes = self.ground.cluster.nodes
        return nodes[self.scenario.seed % len(nodes)]

    def run(self) -> str:
        """Play, and return what is wrong; empty when nothing is."""
        ground, scenario = self.ground, self.scenario
        ground.kind = scenario.kind
        ground.fill_source(rows=ROWS)
        ground.create("target", engine=scenario.engine)
        folders = ["one", "two"] if scenario.fault == "two folders" else ["one"]
        clis = [ground.cli(state=name) for name in folders]
        for cli in clis:
            cli.environment["PYTHONFAULTHANDLER"] = "1"
        flags = ("--write-mode", "replace") if scenario.mode == "replace" else ()
        plans = [self._plan(cli, flags) for cli in clis]
        self._fronts = list(zip(clis, plans, strict=True))
        hook = "after" if self.chance.random() < 0.5 else "before"
        for balancer in (*ground.balancers, *self.by_itself):
            setattr(balancer, hook, self._hook)
        advised: tuple[str, ...] = ()
        for turn in range(_WILD + _CALM):
            if turn == _WILD:
                self._heal(for_good=scenario.fault == "replica killed for good")
            twice = 2 if scenario.fault == "two workers" else 1
            if scenario.fault == "resumed through the other replica":
                clis[0].url = self.by_itself[turn % 2].url if turn < _WILD else ground.balancer.url
            self.workers = [
                cli.start("run", "--plan-id", plan, "--replay-failed", "--force-environment", *advised)
                for cli, plan in self._fronts
                for _ in range(twice)
            ]
            answers = [self._finish(worker) for worker in self.workers]
            # Where a message says so, and it is so.
            if scenario.fault == "replica killed for good" and "if it is gone permanently" in answers[-1].err:
                advised = ("--clear-window",)
            if self._is_completed():
                # Too late to strike: what follows judges.
                self.workers = []
                # What a worker left that died between its last record and its cleaning up goes with the next command.
                self._heal(for_good=False)
                _call(clis[0], "run", "--plan-id", plans[0], "--force-environment")
                if not self.struck:
                    return f"a run without a fault: it had no {self._at + 1} statements"
                break
        else:
            return f"not completed: {answers[-1].err[-600:]}"
        return self._judge()

    @staticmethod
    def _finish(worker: subprocess.Popen[str]) -> Answer:
        """
        Wait for a worker.

        Raises:
            AssertionError: It has not ended in two minutes; says where each of its threads is.
        """
        try:
            worker.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGABRT)
            raise AssertionError(f"hung: {finish(worker).err[-6000:]}") from None
        return finish(worker)

    def _plan(self, cli: Cli, flags: tuple[str, ...]) -> str:
        hours = str(24 * _DAYS[self.scenario.mode])
        window = ("--from", "2025-01-01", "--to", "2025-03-01", "--chunk-hours", hours, "--force-large-window")
        tables = ("--target", f"{self.ground.database}.target", "--source", f"{self.ground.database}.source")
        answer = _call(cli, "plan", *tables, *window, *flags, *self.ground.shard_flags, "--json")
        return str(json.loads(answer.out)["planId"])

    def end(self) -> None:
        """Leave no worker, and nothing that is about to strike or to heal."""
        for worker in self.workers:
            worker.kill()
        for timer in self.timers:
            timer.join()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in a while."""
        timer = threading.Timer(seconds, action)
        self.timers.append(timer)
        timer.start()

    def _is_completed(self) -> bool:
        """Whether one of the folders has filled the window; of two, the other one was refused."""
        return "completed" in [_status(cli, plan) for cli, plan in self._fronts]

    def _hook(self, sql: str) -> None:
        """Strike once, at a statement that was chosen by chance."""
        if self.workers and "backfill" in sql and next(self._count) == self._at:
            self.struck += 1
            FAULTS[self.scenario.fault](self)

    def _heal(self, *, for_good: bool) -> None:
        """Let everything work again; a replica that is dead for good stays so."""
        ground = self.ground
        ground.cluster.zookeeper.start()
        for node in ground.cluster.nodes:
            if not (for_good and node is self.victim and self.struck):
                node.start()
                node.query("SYSTEM START FETCHES")

    def _wrong_lights(self, *, right: bool) -> str:
        """What ``check`` and ``verify`` say that is not so; whoever was refused waives the plan, and cleans up."""
        for cli, plan in self._fronts:
            if _status(cli, plan) == "completed":
                answer = _call(cli, "verify", "--plan-id", plan, "--json").out
                if json.loads(answer).get("verdict") != ("equal" if right else "differs"):
                    return f"the rows are {'right' if right else 'wrong'}, and verify says {answer}"
            else:
                if _call(cli, "check").code == 0:
                    return "check is green where a plan is not completed"
                _call(cli, "waive", "--plan-id", plan, "--reason", "another folder has filled the window")
                _call(cli, "clean", "--plan-id", plan, "--yes")
            check = _call(cli, "check")
            if check.code:
                return f"check ends with {check.code}: {check.out}"
        return ""

    def _judge(self) -> str:
        ground = self.ground
        try:
            self._heal(for_good=False)
            ground.catch_up("target", "source")
            expected = [ground.content(ground.cluster.node(1, node.shard), "source") for node in ground.cluster.nodes]
            table = "target" if self.scenario.engine == "MergeTree" else "target FINAL"
            found = [ground.content(node, table) for node in ground.cluster.nodes]
            right = found == expected
            wrong = self._wrong_lights(right=right)
            if not right or wrong:
                return f"rows: {found} for {expected}; {wrong}"
            ground.assert_clean()
        except AssertionError as error:
            return str(error)
        return ""


def _call(cli: Cli, *words: str) -> Answer:
    """Call the command line in this process, which costs less than a program of its own."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "SYNC_SECONDS", impatient.SYNC_SECONDS)
        for name, value in cli.environment.items():
            patch.setenv(name, value)
        code = call([*words, "--state-dir", str(cli.state), "--clickhouse-url", cli.url])
    return Answer(code, out.getvalue(), err.getvalue())


def _status(cli: Cli, plan: str) -> str:
    return str(json.loads(_call(cli, "status", "--plan-id", plan, "--json").out)["status"])


def _kill_workers(play: Play) -> None:
    for worker in play.workers:
        worker.kill()


def _kill_and_restart(play: Play) -> None:
    play.victim.kill()
    play.later(play.chance.uniform(0.1, 3), play.victim.start)


def _lose_keeper(play: Play) -> None:
    keeper = play.ground.cluster.zookeeper
    keeper.kill()
    play.later(play.chance.uniform(1, 12), keeper.start)


def _stop_fetches(play: Play) -> None:
    play.victim.query("SYSTEM STOP FETCHES")


def _kill_both(play: Play) -> None:
    _kill_workers(play)
    play.victim.kill()


FAULTS: dict[str, Callable[[Play], None]] = {
    "nothing": lambda _: None,
    "worker killed": _kill_workers,
    "replica killed and back": _kill_and_restart,
    "replica killed for good": lambda play: play.victim.kill(),
    "worker and its replica killed": _kill_both,
    "Keeper gone for a while": _lose_keeper,
    "fetches stopped": _stop_fetches,
    "two workers": _kill_and_restart,
    "resumed through the other replica": _kill_workers,
    "two folders": lambda _: None,
}


def scenarios(seeds: range, faults: list[str], kinds: list[Kind], shards: int = 1) -> Iterator[Scenario]:
    """Every fault and mode for each seed; kinds and engines take turns."""
    for seed in seeds:
        for number, (fault, mode) in enumerate(itertools.product(faults, MODES)):
            turn = seed * 5 + number
            kind = kinds[turn % len(kinds)]
            if shards > 1 and mode == "replace" and kind is Kind.DATABASE:
                # A database over all shards refuses this mode; tests/cluster/test_one_database.py shows it.
                kind = Kind.EXPLICIT
            yield Scenario(kind, ENGINES[turn % len(ENGINES)], mode, fault, seed, shards)


def play(cluster: Cluster, scenario: Scenario, folder: Path, number: int) -> str:
    """Play one scenario in a database of its own, and return what is wrong."""
    cluster.start()
    with ExitStack() as stack:
        balancers = [
            stack.enter_context(Balancer([node for node in cluster.nodes if node.shard == shard], seed=scenario.seed))
            for shard in range(1, scenario.shards + 1)
        ]
        first = [node for node in cluster.nodes if node.shard == 1]
        by_itself = tuple(stack.enter_context(Balancer([node])) for node in first)
        state = folder / f"play-{number}" / "state"
        ground = Field(cluster, balancers[0], f"play_{number}", state, None, others=tuple(balancers[1:]))
        found = Play(ground, scenario, by_itself)
        try:
            return found.run()
        except AssertionError as error:
            return str(error)
        finally:
            found.end()
            ground.clear()


def main() -> int:
    """Play what was asked for, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.matrix", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, help="of two replicas each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so many (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file of results; plays that it holds are not played again")
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--kind", action="append", choices=list(Kind), type=Kind)
    options = parser.parse_args()
    if reason := why_not_here():
        sys.exit(reason)
    PROGRAM[:] = [sys.executable, "-m", "tests.cluster.impatient"]
    until = time.monotonic() + options.minutes * 60
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    faults = options.fault or list(FAULTS)
    todo = list(scenarios(seeds, faults, options.kind or list(Kind), options.shards))
    found: dict[str, str] = {}
    if options.out is not None and options.out.exists():
        # A line that a kill has torn is a play that was not played.
        found = dict(json.loads(line) for line in options.out.read_text().splitlines() if line.endswith("]"))
    with tempfile.TemporaryDirectory() as text, Cluster(Path(text) / "cluster", options.shards) as cluster:
        for number, scenario in enumerate(todo):
            if time.monotonic() > until:
                break
            if str(scenario) in found:
                continue
            began = time.monotonic()
            problem = found[str(scenario)] = play(cluster, scenario, Path(text), number)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(json.dumps([str(scenario), problem]) + "\n")
            print(f"{time.monotonic() - began:5.1f} s  {scenario}: {problem or 'right'}", flush=True)
    played = [scenario for scenario in todo if str(scenario) in found]
    wrong = [scenario for scenario in played if found[str(scenario)]]
    plays, failed = (Counter((one.fault, one.mode) for one in some) for some in (played, wrong))
    print("\n| fault | stage | replace |\n|---|---|---|")
    for fault in faults:
        cells = (f"{plays[fault, mode] - failed[fault, mode]} of {plays[fault, mode]} right" for mode in MODES)
        print(f"| {fault} | {' | '.join(cells)} |")
    for scenario in wrong:
        print(f"wrong: {scenario}: {found[str(scenario)]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
