"""
What a seed stands for: tables, runners, and the faults that strike, all drawn from one number.

The draw is repeatable; when exactly a fault meets a runner is up to the machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tests.system.faults.tables import KINDS, Layout

# Where a worker can be struck: the product's own steps, and its events once they are on disk.
STEPS = (
    *("claim", "staging", "staged", "verified", "sealed", "moved 1", "moved 2", "replaced 1", "recorded"),
    *("ChunkStarted", "ChunkVerified", "ChunkDone", "dropped 1"),
)
# What a runner reports when it has to ask a person what the target holds.
IN_DOUBT = "in doubt"
# It has looked at the rows of others in the window, and has not published anything yet.
LOOKED = "looked"
# How long a stopped worker sleeps: until after its lease, or until the run is over without it.
UNTIL_COMPLETED = -1.0


@dataclass(frozen=True)
class Inside:
    """
    A fault that strikes inside a runner, by its own hand.

    Attributes:
        fault: ``kill``, ``stop``, ``disk`` or ``clock``.
        step, nth: For kill and stop: at which occurrence of which step.
        asleep: For stop: seconds until SIGCONT, or ``UNTIL_COMPLETED``.
        until: For stop: wake up as soon as another runner reports this step, or after *asleep*.
        first, count, how: For disk: which writes fail, and in which way.
        ahead: For clock: seconds; with *count*, until the clock has been asked so often and jumps to the right time.
    """

    fault: str
    step: str = ""
    nth: int = 1
    asleep: float = 0.0
    until: str = ""
    first: int = 1
    count: int = 0
    how: str = ""
    ahead: float = 0.0


@dataclass(frozen=True)
class Outside:
    """
    A fault that strikes from outside, some time after the runners were started or a step was reached.

    Attributes:
        fault: ``kill``, ``stop``, ``term``, ``query``, ``wire``, ``server``, ``torn`` (what a server leaves that
            died inside a move), ``lost`` (a part is gone of what is staged), ``cancel``, ``runner`` or ``late``.
        step: Wait for the *nth* time that any runner reports this step; empty for the start.
        after: Seconds after that.
        lasts: Seconds until a stopped runner goes on or the wire is whole again; for a server, how long it is
            down, or ``idle``: up again with nobody at work.
        how: For the wire: the proxy's mode; for torn: a ``partition`` or one ``part`` of it had arrived.
    """

    fault: str
    step: str = ""
    nth: int = 1
    after: float = 0.0
    lasts: float = 0.0
    how: str = ""


@dataclass(frozen=True)
class Scenario:
    """
    One seed.

    Attributes:
        inside: The faults of the first runners, in the order in which they are started.
        runners: How many are started at once.
        retries: Attempts per chunk before the run fails (and has to be resumed).
        replay: Whether the run is completed in peace first, and what is attacked is its replay.
        proof: What staged rows are held against.
        off: A safety that is switched off in every runner.
        cell: Target, mode and fault, for the matrix; of a seed of the campaign, what is special about it.
        rivals: A second plan is at work: the same one in another state folder (``folders``), another one of the same
            window there (``strangers``), or one of a part of the window in the same folder (``plans``).
        undo: Whether the plan is undone in the end, under attack.
        bucket: Whether state is kept in an object store.
        spoil: What is made wrong by hand when all has been judged right, to see that ``verify`` says so.
    """

    name: str
    layout: Layout
    runners: int = 1
    parallel: int = 1
    lease: float = 1.0
    retries: int = 3
    blocks: int = 200
    replay: bool = False
    proof: str = "written"
    inside: tuple[tuple[Inside, ...], ...] = ()
    outside: tuple[Outside, ...] = ()
    off: str = ""
    cell: tuple[str, ...] = ()
    rivals: str = ""
    undo: bool = False
    bucket: bool = False
    spoil: str = ""


# Seeds up to this one are plain runs; from the next one on the cells take turns.
PLAIN_SEEDS = 1000
CELLS = (
    *("two folders", "two plans", "cleared window", "backup and undo", "rows outside kept", "bounds as parameters"),
    *("clock jumps back", "server away for long"),
    # Not of the seeds up to the next line's: what these have played stays as it was.
    "state in an object store",
)
_FIRST_CELLS, _LAST_OF_THEM = 8, 3000
# Longer than a target that forgets remembers its old parts.
_LONG = 5.0


def campaign(seed: int, off: str = "") -> Scenario:
    """The scenario of a seed of the campaign."""
    scenario = _plain(seed, off)
    draw = random.Random(f"cell {seed}")  # noqa: S311 - repeatable on purpose
    scenario = replace(scenario, spoil=draw.choice(["", "delete", "double"]))
    if seed <= PLAIN_SEEDS:
        return replace(scenario, cell=("plain",))
    cells = CELLS if seed > _LAST_OF_THEM else CELLS[:_FIRST_CELLS]
    return _in_cell(draw, scenario, cells[seed % len(cells)])


def _in_cell(draw: random.Random, scenario: Scenario, cell: str) -> Scenario:
    """What a plain scenario becomes in a cell."""
    kinds = [name for name in KINDS if KINDS[name].bucket < 24]
    layout = _layout(draw, draw.choice(kinds), "replace" if cell in _REPLACES else "stage")
    layout = replace(layout, slow=draw.choice([0, 50]), rows=draw.choice([300, 600]))
    # The faults of the plain seed, without what belongs to its own kind or mode.
    outside = tuple(fault for fault in scenario.outside if fault.fault != "late")
    scenario = replace(scenario, layout=layout, outside=outside, replay=False, cell=(cell,))
    match cell:
        case "two folders" | "two plans":
            return replace(scenario, rivals=cell.split()[1], runners=max(scenario.runners, 2))
        case "cleared window":
            return replace(scenario, replay=True)
        case "state in an object store":
            # Its disk cannot be full; a lock that a dead worker holds there ends after half a minute.
            inside = tuple(tuple(one for one in each if one.fault != "disk") for each in scenario.inside)
            return replace(scenario, inside=inside, bucket=True)
        case "backup and undo":
            return replace(scenario, layout=replace(layout, more=("--backup",)), undo=True)
        case "rows outside kept":
            # The window ends inside a partition, or begins inside one of two days; no other chunk bound may lie in one.
            partition, hours = draw.choice([(24, 6), (24, 18), (48, 24)])
            layout = replace(layout, partition=partition, hours=hours, chunks=1, more=("--keep-outside",))
            return replace(scenario, layout=layout)
        case "bounds as parameters":
            name = draw.choice([name for name in kinds if not KINDS[name].by_view])
            bounds = "ts >= {{chunk_from:{0}}} AND ts < {{chunk_to:{0}}}"
            kind = draw.choice(["DateTime64(3, 'UTC')", "DateTime64(3)", "DateTime('UTC')"])
            return replace(scenario, layout=replace(layout, kind=name, bounds=bounds.format(kind)))
        case "clock jumps back":
            clock = Inside("clock", ahead=draw.choice([5, 3600]), count=draw.randint(1, 60))
            return replace(scenario, inside=((clock, *scenario.inside[0][:1]), *scenario.inside[1:]))
        case "server away for long":
            step, how = draw.choice(["sealed", "moved 1"]), draw.choice(["", "idle"])
            torn = (Outside("torn", step="sealed", how=draw.choice(["partition", "part"])),)
            gone = Outside("server", step=step, after=draw.uniform(0, 0.1), lasts=_LONG, how=how)
            outside = (*(torn if step == "sealed" and draw.random() < 0.5 else ()), gone)
            layout = replace(layout, merges=True, forgets=True, chunks=2)
            inside = ((Inside("kill", step=step),),)
            return replace(scenario, layout=layout, inside=inside, outside=outside, runners=1)
    raise ValueError(cell)


_REPLACES = ("backup and undo", "rows outside kept")


def _plain(seed: int, off: str) -> Scenario:
    draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
    kind = draw.choice(list(KINDS))
    mode = draw.choice(["stage", "stage", "replace"])
    layout = _layout(draw, kind, mode)
    runners = draw.choice([1, 1, 2, 2, 3])
    inside: list[list[Inside]] = [[] for _ in range(8)]
    outside: list[Outside] = []
    for number in range(draw.choice([1, 2, 2, 3, 3, 4])):
        if draw.random() < 0.5:
            # A later fault may also be that of a runner which is started once the first ones are gone.
            inside[draw.randrange(runners + (number > 0))].append(_inside(draw, layout))
        else:
            outside.append(_outside(draw, layout))
    return Scenario(
        name=f"--seed {seed}" + (f" --off {off}" if off else ""),
        layout=layout,
        runners=runners,
        parallel=draw.choice([1, 1, 2, 3]),
        lease=draw.choice([0.7, 1.0, 1.5]),
        retries=draw.choice([2, 3, 10]),
        blocks=draw.choice([60, 150, 1000]),
        replay=draw.random() < 0.15,
        # Drawn last: what a seed draws before stays as it was.
        proof="content" if draw.random() < 0.3 else "written",
        inside=tuple(map(tuple, inside)),
        outside=tuple(outside),
        off=off,
    )


def _layout(draw: random.Random, kind: str, mode: str) -> Layout:
    if mode == "replace":
        hours = draw.choice([6, 24])
        partition = hours if draw.random() < 0.7 else 6
    else:
        hours = draw.choice([6, 6, 8, 24])
        partition = draw.choice([0, 1, 3, 24, 24])
    chunks = draw.choice([2, 3, 4, 6])
    if KINDS[kind].bucket == 24:
        # Whole days: rows of a day that is cut in two would be added to what is there already.
        hours, chunks = (24, 2) if mode == "replace" else draw.choice([(6, 4), (8, 3), (24, 2)])
        partition = 24
    return Layout(
        kind=kind,
        mode=mode,
        partition=partition,
        hours=hours,
        chunks=chunks,
        rows=draw.choice([300, 600, 1500]),
        slow=draw.choice([0, 50, 100]),
        # What doubles must not be hidden by a merge.
        merges=kind != "ReplacingMergeTree" and draw.random() < 0.4,
        steady=KINDS[kind].bucket == 24 or draw.random() < 0.1,
    )


def _steps(draw: random.Random, layout: Layout) -> str:
    unfit = ["moved"] if layout.mode == "replace" else ["replaced"]
    if not 0 < layout.partition < layout.hours:
        unfit.append("moved 2")
    return draw.choice([step for step in STEPS if not step.startswith(tuple(unfit))])


def _inside(draw: random.Random, layout: Layout) -> Inside:
    fault = draw.choice(["kill", "kill", "stop", "stop", "stop", "disk", "clock"])
    if fault == "disk":
        how = draw.choice(["none", "short", "late"])
        return Inside("disk", first=draw.randint(1, 12), count=draw.choice([1, 2, 5]), how=how)
    if fault == "clock":
        return Inside("clock", ahead=draw.choice([-3600, -5, 5, 3600, 86400]))
    plan = Inside(fault, step=_steps(draw, layout), nth=draw.choice([1, 1, 2, 3]))
    if fault == "stop" and draw.random() < 0.4:
        # Into the middle of what the one who has taken over does.
        return replace(plan, asleep=UNTIL_COMPLETED, until=_steps(draw, layout))
    return replace(plan, asleep=draw.choice([0.3, 1.2, 2.0, UNTIL_COMPLETED])) if fault == "stop" else plan


def _outside(draw: random.Random, layout: Layout) -> Outside:
    kinds = ["kill", "stop", "term", "query", "query", "wire", "wire", "wire", "server", "server", "cancel", "runner"]
    # A view would also write late rows into the target, live; what that means is not the backfill's to say.
    fault = draw.choice([*kinds, "late"] if layout.kind == "MergeTree" else kinds)
    step, nth, after = "", 1, draw.uniform(0.1, 1.2)
    if fault == "query":
        step, nth, after = "staging", draw.choice([1, 1, 2]), draw.uniform(0, 0.1)
    elif fault == "server" and draw.random() < 0.4:
        # Into the move or the replacement itself, which takes milliseconds.
        step, after = "sealed", draw.uniform(0, 0.02)
    elif draw.random() < 0.6:
        step, nth, after = _steps(draw, layout), draw.choice([1, 1, 2]), draw.choice([0, draw.uniform(0, 0.12)])
    plan = Outside(fault, step=step, nth=nth, after=after)
    if fault == "stop":
        return replace(plan, lasts=draw.choice([0.4, 1.2, 2.0, UNTIL_COMPLETED]))
    if fault == "wire":
        how = draw.choice(["cut", "cut", "refuse", "delay", "swallow", "behead", "behead"])
        return replace(plan, how=how, lasts=draw.uniform(0.05, 0.8))
    if fault == "cancel":
        return replace(plan, lasts=draw.uniform(0.0, 1.0))
    return plan


MODES = ("stage", "replace")
MATRIX_KINDS = tuple(kind for kind in KINDS if KINDS[kind].bucket < 24)
MATRIX_FAULTS = (
    "clean",
    "KILL QUERY",
    "connection cut",
    "server killed",
    "worker killed",
    "raced by its zombie",
)


def matrix(kind: str, mode: str, fault: str, seed: int) -> Scenario:
    """The scenario of a cell of the matrix and a seed."""
    draw = random.Random(f"{kind} {mode} {fault} {seed}")  # noqa: S311 - repeatable on purpose
    layout = replace(_layout(draw, kind, mode), slow=draw.choice([50, 100]))
    layout = replace(layout, chunks=min(layout.chunks, 3))
    if draw.random() < 0.1:
        # One in ten is asked for what cannot be promised (replace), or is plain (stage).
        layout = replace(layout, partition=0)
    inside: tuple[tuple[Inside, ...], ...] = ()
    outside: tuple[Outside, ...] = ()
    runners, nth = 1, draw.choice([1, 2])
    step, after = _steps(draw, layout), draw.uniform(0, 0.12)
    match fault:
        case "KILL QUERY":
            outside = (Outside("query", step="staging", nth=nth, after=after / 2),)
        case "connection cut":
            how = draw.choice(["cut", "refuse", "swallow", "behead"])
            outside = (Outside("wire", step=step, nth=nth, after=after, how=how, lasts=0.3),)
        case "server killed":
            outside = (Outside("server", step=step, nth=nth, after=draw.choice([0, after / 10, after])),)
        case "worker killed":
            inside = ((Inside("kill", step=step, nth=nth),),)
        case "raced by its zombie":
            until = draw.choice(["", _steps(draw, layout)])
            inside, runners = ((Inside("stop", step=step, nth=nth, asleep=UNTIL_COMPLETED, until=until),),), 2
    return Scenario(
        name=f"--matrix --cell {kind!r} {mode} {fault!r} --seed {seed}",
        layout=layout,
        runners=runners,
        lease=0.7,
        retries=10,
        blocks=draw.choice([60, 150]),
        inside=inside,
        outside=outside,
        cell=(kind, mode, fault),
    )


@dataclass
class Result:
    """
    How a seed ended.

    Attributes:
        problems: What is wrong, a line each that begins with a word: lost, doubled, extra, outside,
            left, twice, log, doctor, check, light, words, undo, hung, wrong. Empty when all is well.
        refused: Why nothing was planned, or why a person was asked to look; empty when neither was.
        struck: The faults that took place, by name.
        attempts: Attempts that the log tells of.
        woken: Frozen workers that held the log's lock; the others went on when these did.
        verdicts: What ``verify`` said over which data.
        advice: Whether the doctor's advice had to be followed after the end to get everything clean.
    """

    name: str
    cell: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    refused: str = ""
    struck: dict[str, int] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    attempts: int = 0
    chunks: int = 0
    runners: int = 0
    woken: int = 0
    advice: bool = False
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
