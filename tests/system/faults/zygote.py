"""
A process that has everything imported and forks a runner on request, in milliseconds.

It has one thread and no open connection, so a fork of it is a clean start. Requests come as
JSON lines on stdin; what happens to the children goes out as JSON lines on stdout, which the
children share: they report their steps there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from airflow_provider_backfill import cli, clickhouse, commands, core
from tests.system.faults import child

# The command line imports what it needs when it needs it; once, before the fork, is enough.
for package in (cli, clickhouse, commands, core):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def tell(channel: int, **message: Any) -> None:
    """Write one line; shorter than a pipe's atomic write, so lines of several processes never mix."""
    os.write(channel, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Serve until stdin ends; then kill what is left."""
    channel = os.dup(1)
    os.dup2(2, 1)
    waker, woken = os.pipe()
    for end in (waker, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: set[int] = set()
    pending = b""
    while True:
        ready, _, _ = select.select([0, waker], [], [])
        if waker in ready:
            os.read(waker, 4096)
            _reap(channel, alive)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                alive.add(_fork(channel, json.loads(line)))
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(channel: int, alive: set[int]) -> None:
    while alive:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if not pid:
            return
        if os.WIFSTOPPED(status):
            tell(channel, what="stopped", pid=pid)
        else:
            alive.discard(pid)
            tell(channel, what="ended", pid=pid, code=os.waitstatus_to_exitcode(status))


def _fork(channel: int, spec: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        tell(channel, what="started", pid=pid, name=spec["name"])
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # The output of every child of a seed is kept for the report of a failure.
        console = os.open(Path(spec["console"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(console, 1)
        os.dup2(console, 2)
        code = child.work(spec, lambda **message: tell(channel, name=spec["name"], pid=os.getpid(), **message))
    except BaseException:  # noqa: BLE001 - the child must never return into the zygote's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
