"""
One server, one wire and one zygote: where seeds are played, one after the other.

The arena starts runners, strikes them as the scenario says, and takes care that a run is resumed
until it is completed; the judge then looks at everything that is left.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.core.run_state import RunStatus
from airflow_provider_backfill.errors import DamagedStateError
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore, open_store
from tests.s3 import S3Server
from tests.server import ClickHouseServer
from tests.system.faults.judge import Judge
from tests.system.faults.proxy import Mode, Proxy
from tests.system.faults.schedule import IN_DOUBT, UNTIL_COMPLETED, Inside, Outside, Result, Scenario

ROOT = Path(__file__).resolve().parents[3]
# After this many seconds nothing strikes any more and everything works again.
_PEACE = 6.0
_MAX_RUNNERS = 30
# So often a plan is tried again when nothing strikes any more, before its refusal counts.
_TRIES_IN_PEACE = 2


@dataclass
class Front:
    """
    One plan in one state folder; rivals have two of them.

    Attributes:
        state: The state folder, or its URL.
        begun: How many runners were started for it, and since the last strike with nobody else at work.
        refused: Why it was given up: a person has to look, or another plan has filled its window.
    """

    state: str
    store: StateStore
    plan: Plan
    log: RunLog
    begun: int = 0
    begun_in_peace: int = 0
    refused: str = ""

    @property
    def completed(self) -> bool:
        """Whether the run is completed, as of the last look."""
        return self.log.run.status is RunStatus.COMPLETED


@dataclass
class _Runner:
    name: str
    front: Front | None = None
    inside: tuple[Inside, ...] = ()
    pid: int = 0
    stopped: bool = False
    ended: bool = False
    code: int = 0
    wake_when_completed: bool = False
    wake_at_step: str = ""


class Arena:
    """
    Plays scenarios in *directory*, which is emptied at the end. Usable as a context manager.

    Everything in it ends with it, and with its process.

    Attributes:
        patience: After so many seconds a run that is not completed is hung.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.patience = 60.0
        self.server = ClickHouseServer(directory / "clickhouse")
        self._names = itertools.count(1)
        self._bucket: S3Server | None = None

    def __enter__(self) -> Arena:
        self.server.start()
        self._client: Client | None = None
        self.proxy = Proxy(self.server.http_port)
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("CLICKHOUSE_")},
        )
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, name="zygote", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._zygote.stdin is not None
        with contextlib.suppress(OSError):
            self._zygote.stdin.close()
        try:
            self._zygote.wait(10)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self.proxy.close()
        if self._bucket is not None:
            self._bucket.__exit__()
        self.server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            self._messages.put(json.loads(line))

    @property
    def client(self) -> Client:
        """A direct connection, around the wire; made anew after the server was killed."""
        if self._client is None:
            self._client = clickhouse_connect.get_client(dsn=self.server.url, autogenerate_session_id=False)
        return self._client

    def forget_client(self) -> None:
        """Connect anew at the next question."""
        if self._client is not None:
            self._client.close()
        self._client = None

    @property
    def bucket(self) -> S3Server:
        """An object store, once a seed wants one; it has one bucket, of the name ``states``."""
        if self._bucket is None:
            self._bucket = S3Server().__enter__()
            self._bucket.new_bucket("states")
        return self._bucket

    def fork(self, spec: dict[str, Any]) -> None:
        """Have the zygote fork a child for *spec*."""
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(spec).encode() + b"\n")
        self._zygote.stdin.flush()

    def message(self, timeout: float) -> dict[str, Any] | None:
        """The next message from the zygote or a child, or None after *timeout* seconds."""
        try:
            return self._messages.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            return None

    def play(self, scenario: Scenario) -> Result:
        """Play *scenario* to its end and judge what is left."""
        if not self.server.running:
            self.server.start()
        seed = Play(self, scenario, self.directory / f"seed-{next(self._names)}")
        try:
            return seed.play()
        finally:
            seed.clean()


class Play:
    """One scenario being played."""

    def __init__(self, arena: Arena, scenario: Scenario, folder: Path) -> None:
        self.arena, self.scenario, self.folder = arena, scenario, folder
        self.database = folder.name.replace("-", "_")
        self.result = Result(scenario.name, scenario.cell)
        self._runners: dict[str, _Runner] = {}
        self._by_pid: dict[int, _Runner] = {}
        self._timed: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting = list(scenario.outside)
        self._steps: Counter[str] = Counter()
        self._claims: dict[tuple[str, int], str] = {}
        self._struck: Counter[str] = Counter()
        self._inside = iter(scenario.inside)
        self._quiet_until = 0.0
        self.late = 0
        self._replayed = False
        self._start = 0.0
        self._random = random.Random(scenario.name)  # noqa: S311 - repeatable on purpose

    # -------------------------------------------------------- playing

    def play(self) -> Result:
        """Play to the end, and judge."""
        began = time.monotonic()
        try:
            self._play()
        except DamagedStateError as error:
            self.result.problems.append(f"log: {error}")
        self.result.struck = dict(self._struck)
        self.result.runners = sum(1 for runner in self._runners.values() if runner.name.endswith("runner"))
        self.result.seconds = round(time.monotonic() - began, 2)
        if self.result.problems:
            self.result.about["console"] = self._console()
        return self.result

    def _play(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "options.toml").write_text(
            "[defaults]\nretryDelayMs = 10\n"
            f"maxRetriesPerChunk = {self.scenario.retries}\nmaxParallelChunks = {self.scenario.parallel}\n"
            "[limits]\nminChunkMinutes = 15\n"
        )
        layout = self.scenario.layout
        layout.build(self.arena.client, self.database)
        judge = Judge(self)
        words = [layout.flags(self.database)]
        match self.scenario.rivals:
            case "folders":
                words.append(words[0])
            case "strangers":
                words.append(layout.flags(self.database, hours=layout.hours // 2))
            case "plans":
                words.append(layout.flags(self.database, chunks=layout.chunks // 2))
        fronts: list[Front] = []
        for number, flags in enumerate(words):
            state = self._state("other" if number and self.scenario.rivals != "plans" else "state")
            code, payload = self.call(["plan", *flags, "--proof", self.scenario.proof], state)
            if code == 2:
                self.result.refused = str(payload["error"])
                return
            if code:
                self.result.problems.append(f"wrong: plan ended with {code}: {payload}")
                return
            store = open_store(state, config=self.arena.bucket.config if self.scenario.bucket else None)
            plan = store.load_plan(payload["planId"])
            fronts.append(Front(state, store, plan, store.open_run(plan)))
        if self.scenario.replay:
            code, payload = self.call(["run", "--plan-id", fronts[0].plan.plan_id])
            if code:
                self.result.problems.append(f"wrong: an undisturbed run ended with {code}: {payload}")
                return
        self._attack(fronts)
        if not self.result.problems:
            judge.judge(fronts)
        runs = [front.store.open_run(front.plan).run for front in fronts]
        self.result.attempts, self.result.chunks = sum(run.attempts for run in runs), sum(run.total for run in runs)

    def _attack(self, fronts: list[Front]) -> None:
        """Start the runners, strike, and resume until each plan is completed or refused, and everybody gone home."""
        self._start = time.monotonic()
        for fault in [fault for fault in self._waiting if not fault.step]:
            self._waiting.remove(fault)
            self._at(self._start + fault.after, lambda fault=fault: self._strike(fault, fronts))  # type: ignore[misc]
        for number in range(self.scenario.runners):
            if number and self.scenario.replay:
                # On a completed run there is nothing to do for it until the replay has begun.
                self._waiting.append(Outside("runner", step="ChunkStarted", nth=number))
            else:
                self._start_runner(fronts[number % len(fronts)])
        peace = False
        while True:
            now = time.monotonic()
            if now > self._start + self.arena.patience:
                states = {r.name: "ended" if r.ended else "stopped" if r.stopped else "alive" for r in self._all()}
                found = ", ".join(front.log.run.status for front in fronts)
                self.result.problems.append(f"hung: the run is {found} after {self.arena.patience:g} s; {states}")
                return
            # Two plans that have each filled a part of the other one are refused at once, again and again.
            if not peace and (now > self._start + _PEACE or len(self._runners) > _MAX_RUNNERS / 2):
                peace = True
                self._make_peace()
            if now > self._start + self.arena.patience / 2:
                self._wake_who_holds_a_lock()
            while self._timed and self._timed[0][0] <= now:
                heapq.heappop(self._timed)[2]()
            next_time = self._timed[0][0] if self._timed else now + 0.05
            self._take(self.arena.message(min(next_time - now, 0.05)), fronts)
            for front in fronts:
                front.log.refresh()
            undecided = [front for front in fronts if not (front.completed or front.refused)]
            if not undecided:
                if all(runner.ended for runner in self._all()):
                    return
                for runner in self._all():
                    if runner.stopped and runner.wake_when_completed:
                        self._wake(runner)
                continue
            idle = all(runner.ended or runner.stopped for runner in self._all())
            if idle and now > self._quiet_until and not self._give_up(fronts, undecided):
                if len(self._runners) > _MAX_RUNNERS:
                    found = ", ".join(front.log.run.status for front in fronts)
                    self.result.problems.append(f"hung: {_MAX_RUNNERS} runners did not complete it: {found}")
                    return
                self._quiet_until = now + self._random.uniform(0.0, 0.15)
                front = min(undecided, key=lambda front: front.begun)
                front.begun_in_peace += peace or any(other.completed for other in fronts)
                self._start_runner(front)

    def _give_up(self, fronts: list[Front], undecided: list[Front]) -> bool:
        """Whether one of the plans is not to be tried again; what it said is the refusal that is judged."""
        for front in undecided:
            if (
                front.log.run.status is RunStatus.FAILED
                and self._steps[IN_DOUBT]
                and self._struck.keys() & {"server SIGKILL and restart", "server away for long"}
            ):
                # Keys of several chunks are the same: a person has to look, and nothing more is written.
                front.refused = self._last_words(front)
            elif len(fronts) > 1 and front.begun_in_peace >= _TRIES_IN_PEACE:
                front.refused = self._last_words(front)
            if front.refused:
                return True
        return False

    def _last_words(self, front: Front) -> str:
        """What the last runner of a plan has said."""
        runner = [runner for runner in self._all() if runner.front is front and runner.name.endswith("runner")][-1]
        payload = self._payload(runner)
        return f"{payload.get('error') or payload.get('lastError') or payload}; {payload.get('hint') or ''}"

    def _all(self) -> list[_Runner]:
        return list(self._runners.values())

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timed, (moment, next(self._order), action))

    def _make_peace(self) -> None:
        self._waiting.clear()
        self._timed.clear()
        self.arena.proxy.set("pass")
        for runner in self._all():
            if runner.stopped and not runner.wake_when_completed:
                self._wake(runner)

    def _wake_who_holds_a_lock(self) -> None:
        """Do what a person must when a worker was frozen within the milliseconds in which it writes to the log."""
        holders = {int(line.split()[-4]) for line in Path("/proc/locks").read_text().splitlines() if "FLOCK" in line}
        for runner in self._all():
            if runner.stopped and runner.pid in holders:
                self.result.woken += 1
                self._wake(runner)

    def _take(self, message: dict[str, Any] | None, fronts: list[Front]) -> None:
        if message is None:
            return
        match message["what"]:
            case "started":
                self._take_simple(message)
            case "ended":
                self._take_simple(message)
                ended = self._by_pid.get(message["pid"])
                own = ended is not None and any(one.fault == "kill" and one.step for one in ended.inside)
                if own and ended is not None and ended.code == -signal.SIGKILL:
                    self._struck["worker SIGKILL at a named step"] += 1
            case "stopped":
                if runner := self._by_pid.get(message["pid"]):
                    self._stopped(runner)
            case "step":
                self._stepped(message, fronts)

    def _stopped(self, runner: _Runner) -> None:
        runner.stopped = True
        strike = next((one for one in runner.inside if one.fault == "stop"), None)
        if runner.wake_when_completed or strike is None:
            return
        self._struck["worker SIGSTOP, then SIGCONT at a named step"] += 1
        runner.wake_at_step = strike.until
        if strike.asleep == UNTIL_COMPLETED:
            runner.wake_when_completed = True
        else:
            self._at(time.monotonic() + strike.asleep, lambda: self._wake(runner))

    def _wake(self, runner: _Runner) -> None:
        if not runner.ended:
            runner.stopped = False
            self._signal(runner, signal.SIGCONT)

    def _stepped(self, message: dict[str, Any], fronts: list[Front]) -> None:
        step = message["step"]
        if message["name"] not in self._runners:
            return
        self._steps[step] += 1
        if step == "ChunkStarted":
            front = self._runners[message["name"]].front
            claim = (f"{front and front.state} {message['chunk']}", message["attempt"])
            other = self._claims.setdefault(claim, message["name"])
            if other != message["name"]:
                self.result.problems.append(
                    f"twice: attempt {claim[1]} of chunk {claim[0]} was executed by {other} and {message['name']}"
                )
        for runner in self._all():
            if runner.stopped and runner.wake_at_step == step and runner.name != message["name"]:
                self._wake(runner)
        for fault in [one for one in self._waiting if one.step == step and one.nth == self._steps[step]]:
            self._waiting.remove(fault)
            self._at(time.monotonic() + fault.after, lambda fault=fault: self._strike(fault, fronts))  # type: ignore[misc]

    # -------------------------------------------------------- striking

    def _strike(self, fault: Outside, fronts: list[Front]) -> None:
        struck = f"{fault.fault} {fault.how}".strip()
        match fault.fault:
            case "kill" | "stop" | "term":
                alive = [runner for runner in self._all() if runner.pid and not runner.ended and not runner.stopped]
                if not alive:
                    return
                runner = self._random.choice(alive)
                if fault.fault == "stop":
                    runner.wake_when_completed = fault.lasts == UNTIL_COMPLETED
                    self._signal(runner, signal.SIGSTOP)
                    if fault.lasts != UNTIL_COMPLETED:
                        self._at(time.monotonic() + fault.lasts, lambda: self._wake(runner))
                    struck = "worker SIGSTOP, then SIGCONT at a random time"
                else:
                    self._signal(runner, signal.SIGKILL if fault.fault == "kill" else signal.SIGTERM)
                    struck = "worker SIGKILL at a random time" if fault.fault == "kill" else "worker SIGTERM"
            case "query":
                if not self._kill_query():
                    return
                struck = "KILL QUERY"
            case "wire":
                mode: Mode = fault.how  # type: ignore[assignment]
                self.arena.proxy.set(mode, delay=fault.lasts)
                self._at(time.monotonic() + fault.lasts, lambda: self.arena.proxy.set("pass"))
                struck = f"connection: {fault.how}"
            case "server":
                self.arena.server.kill()
                self.arena.forget_client()
                struck = "server away for long" if fault.lasts else "server SIGKILL and restart"
                if fault.how != "idle":
                    time.sleep(fault.lasts)
                self.arena.server.start()
                if fault.how == "idle":
                    self._quiet_until = time.monotonic() + fault.lasts
                self._start += fault.lasts
            case "lost":
                self._lose_part()
                struck = "a staged part lost (made by hand)"
            case "torn":
                self._tear(fault.how)
                struck = "server died inside a move (made by hand)"
            case "cancel":
                self._quiet_until = time.monotonic() + fault.lasts
                front = self._random.choice(fronts)
                self._fork("cancel", ["cancel", "--plan-id", front.plan.plan_id], front.state)
                struck = "cancel, then resume"
            case "runner":
                self._start_runner(self._random.choice(fronts))
                struck = "one more runner"
            case "late":
                self.late += 1
                self.scenario.layout.insert_late(self.arena.client, self.database, self.late)
                struck = "late rows in the source"
        self._struck[struck] += 1

    def _kill_query(self) -> bool:
        found = self.arena.client.query(
            "SELECT query_id FROM system.processes WHERE startsWith(query_id, 'backfill-') ORDER BY query_id"
        ).result_rows
        if not found:
            return False
        chosen = self._random.choice(found)[0]
        return bool(self.arena.client.query(f"KILL QUERY WHERE query_id = '{chosen}' SYNC").result_rows)

    def _lose_part(self) -> None:
        """Take a part from each table that is staged and not sealed."""
        query = (
            f"SELECT table, any(name) FROM system.parts WHERE active AND database = '{self.database}'"
            " AND match(table, '^backfill_[0-9a-f]+_[0-9a-f]+_[0-9]+$') GROUP BY table"
        )
        for table, part in self.arena.client.query(query).result_rows:
            self.arena.client.command(f"ALTER TABLE {self.database}.{table} DROP PART '{part}'")

    def _tear(self, how: str) -> None:
        """Leave the sealed tables as a server does that dies inside a move: what has arrived is here and there."""
        client, target = self.arena.client, f"{self.database}.target"
        query = (
            "SELECT table, partition_id, path FROM system.parts WHERE active"
            f" AND database = '{self.database}' AND position(table, '_sealed') > 0 ORDER BY table, name LIMIT 1"
        )
        for table, partition, path in client.query(query).result_rows:
            if how == "partition":
                client.command(f"ALTER TABLE {target} ATTACH PARTITION ID '{partition}' FROM {self.database}.{table}")
                continue
            paths = f"SELECT data_paths[1] FROM system.tables WHERE database = '{self.database}' AND name = 'target'"
            part = Path(path)
            detached = Path(client.query(paths).result_rows[0][0]) / "detached" / part.name
            shutil.copytree(part, detached)
            client.command(f"ALTER TABLE {target} ATTACH PART '{part.name}'")

    @staticmethod
    def _signal(runner: _Runner, number: signal.Signals) -> None:
        # Zero would be everybody here.
        if runner.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(runner.pid, number)

    # -------------------------------------------------------- children

    def _state(self, name: str) -> str:
        """Where state is kept, by its name."""
        return f"s3://states/{self.folder.name}/{name}" if self.scenario.bucket else str(self.folder / name)

    def _start_runner(self, front: Front) -> None:
        log = front.log
        words = ["resume" if log.refresh().started or log.run.cancelled else "run", "--plan-id", front.plan.plan_id]
        words += ["--max-parallel-chunks", str(self.scenario.parallel)]
        if self.scenario.replay and log.run.status is RunStatus.COMPLETED and not self._replayed:
            self._replayed = True
            words += ["--replay-done", *(["--clear-window"] if self.scenario.layout.mode == "stage" else [])]
        inside = next(self._inside, ())
        runner = self._fork("runner", words, front.state, inside)
        runner.front = front
        front.begun += 1
        for one in runner.inside:
            if one.fault == "disk":
                self._struck["state disk full"] += 1
            elif one.fault == "clock":
                self._struck["worker's clock wrong"] += 1

    def _fork(self, name: str, words: list[str], state: str, inside: tuple[Inside, ...] = ()) -> _Runner:
        # No name comes twice in an arena, so what an earlier seed still says is not mistaken.
        name = f"{self.folder.name}-{len(self._runners) + 1}-{name}"
        runner = self._runners[name] = _Runner(name, inside=inside)
        # The read timeout is short, so that a swallowed answer costs no minutes.
        url = (
            f"http://default@127.0.0.1:{self.arena.proxy.port}/{self.database}?send_receive_timeout=4&connect_timeout=2"
        )
        common = ["--clickhouse-url", url, "--state-dir", state]
        common += ["--config", str(self.folder / "options.toml"), "--json"]
        signals = {"kill": "SIGKILL", "stop": "SIGSTOP"}
        disk = next((one for one in inside if one.fault == "disk"), None)
        clock = next((one for one in inside if one.fault == "clock"), None)
        self.arena.fork(
            {
                "name": name,
                "words": [*words, *common],
                "console": str(self.folder / f"{name}.txt"),
                "strikes": [
                    {"step": one.step, "nth": one.nth, "signal": signals[one.fault]}
                    for one in inside
                    if one.fault in signals
                ],
                "lease": self.scenario.lease,
                "environment": {f"AWS_{name.upper()}": value for name, value in self.arena.bucket.config.items()}
                if self.scenario.bucket
                else {},
                "clock": clock and {"ahead": clock.ahead, "count": clock.count},
                "disk": disk and {"first": disk.first, "count": disk.count, "how": disk.how},
                "blocks": self.scenario.blocks,
                "off": self.scenario.off if words[0] in ("plan", "run", "resume") else "",
            }
        )
        return runner

    def call(self, words: list[str], state: str = "", kill_after: float = 60) -> tuple[int, dict[str, Any]]:
        """Run one command to its end, or until it is killed; its exit code and what it printed."""
        runner = self._fork(words[0], words, state or self._state("state"))
        deadline = None
        while not runner.ended:
            # On a busy machine it may take long until it is there at all.
            if deadline is None and runner.pid:
                deadline = time.monotonic() + kill_after
            if deadline is not None and time.monotonic() > deadline:
                self._signal(runner, signal.SIGKILL)
                deadline += 5
            message = self.arena.message(min(0.1, kill_after))
            if message is not None and message["what"] in ("started", "ended"):
                self._take_simple(message)
        return runner.code, self._payload(runner)

    def _payload(self, runner: _Runner) -> dict[str, Any]:
        """What a command printed as JSON."""
        console = self.folder / f"{runner.name}.txt"
        # One that was killed before it began has none.
        lines = console.read_text().splitlines() if console.exists() else []
        found = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
        return next(found, {"error": "\n".join(lines)})

    def _take_simple(self, message: dict[str, Any]) -> None:
        if message["what"] == "started":
            if started := self._runners.get(message["name"]):
                started.pid = message["pid"]
                self._by_pid[started.pid] = started
        elif runner := self._by_pid.get(message["pid"]):
            runner.ended, runner.stopped, runner.code = True, False, message["code"]

    def _console(self) -> dict[str, str]:
        return {
            path.stem: path.read_text(errors="replace")[-1500:]
            for path in sorted(self.folder.glob("*.txt"))
            if path.stat().st_size
        }

    def clean(self) -> None:
        """Leave nothing of this seed: no process, no table, no file."""
        for runner in self._all():
            if runner.pid and not runner.ended:
                self._signal(runner, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not all(runner.ended for runner in self._all()) and time.monotonic() < deadline:
            message = self.arena.message(0.1)
            if message is not None and message["what"] in ("started", "ended"):
                self._take_simple(message)
        self.arena.proxy.set("pass")
        self.arena.client.command(f"DROP DATABASE IF EXISTS {self.database} SYNC")
        shutil.rmtree(self.folder, ignore_errors=True)
