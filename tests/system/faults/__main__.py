"""
The long forms: ``python -m tests.system.faults --seeds 1000 --jobs 2 --out results.ndjson``.

Prints what a failing seed found and the command that repeats it, and a table at the end.
With ``--out`` a run that was stopped goes on where it ended. ``--off NAME`` switches a
safety off, to see that the campaign notices. Seeds up to 1,000 are plain runs; those above take turns
in what is special about them.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.system.faults import report
from tests.system.faults.arena import Arena
from tests.system.faults.schedule import MATRIX_FAULTS, MATRIX_KINDS, MODES, Result, Scenario, campaign, matrix
from tests.system.faults.switches import SWITCHES


def main() -> int:
    """Play the seeds that were asked for; 1 when one of them failed."""
    options = _options()
    wanted = _scenarios(options)
    known = _known(options.out)
    todo: queue.Queue[Scenario] = queue.Queue()
    for scenario in wanted:
        if scenario.name not in known:
            todo.put(scenario)
    lock, stop = threading.Lock(), threading.Event()

    def note(result: Result) -> None:
        with lock:
            known[result.name] = asdict(result)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
            if result.problems or options.seed is not None:
                print(report.story(asdict(result)), flush=True)
            elif sys.stderr.isatty():
                print(f"\r{len(known)} of {len(wanted)} ", end="", file=sys.stderr, flush=True)

    def work() -> None:
        # In memory where there is room for it: what is tested is not the disk.
        home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - as above
        with Arena(Path(tempfile.mkdtemp(prefix="backfill-faults-", dir=home))) as arena:
            while not stop.is_set() and time.monotonic() < began + options.minutes * 60:
                try:
                    scenario = todo.get_nowait()
                except queue.Empty:
                    return
                note(arena.play(scenario))

    began = time.monotonic()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            thread.join()
    results = [known[scenario.name] for scenario in wanted if scenario.name in known]
    print(report.matrix_table(results) if options.matrix else report.campaign_table(results))
    print(f"\n{len(results)} of {len(wanted)} seeds, {time.monotonic() - began:.0f} s.", file=sys.stderr)
    return 1 if any(result["problems"] for result in results) or len(results) < len(wanted) else 0


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    if not options.matrix:
        return [campaign(seed, options.off) for seed in seeds]
    cells = [options.cell] if options.cell else [(k, m, f) for k in MATRIX_KINDS for m in MODES for f in MATRIX_FAULTS]
    return [matrix(kind, mode, fault, seed) for seed in seeds for kind, mode, fault in cells]


def _known(out: Path | None) -> dict[str, dict[str, Any]]:
    if out is None or not out.exists():
        return {}
    # A line that a kill has torn is a seed that was not played.
    lines = [line for line in out.read_text().splitlines() if line.endswith("}")]
    return {result["name"]: result for result in map(json.loads, lines)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.system.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=60, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="only this one, and tell about it")
    parser.add_argument("--jobs", type=int, default=1, help="servers at once (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so many (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file of results; seeds that it holds are not played again")
    parser.add_argument("--matrix", action="store_true", help="the matrix of targets, modes and faults")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "MODE", "FAULT"), help="only this cell of the matrix")
    parser.add_argument("--off", default="", choices=["", *SWITCHES], help="a safety to switch off in every runner")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
