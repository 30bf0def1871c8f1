"""Pause a run on a signal."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from .console import print_line


class Stopper:
    """
    A context manager that turns SIGINT, SIGTERM and SIGHUP into a pause of a run.

    Before ClickHouse is connected, a signal ends the command. Later, the first signal stops the worker, which releases
    its chunks. A further SIGINT ends the process immediately; other further signals are ignored.

    Attributes:
        signal: The number of the signal that paused the run; 0 if none did.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._reason = ""
        self.signal = 0
        self._stop: Callable[[str], None] | None = None
        self._connected = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers. A signal that is ignored from outside (nohup) stays ignored.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def opening(self, connect: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """
        Return a function that calls *connect* and then lets signals pause the run; None without *connect*.

        After the connection, the run writes to its log, so a signal must no longer end the command at once.
        """
        if connect is None:
            return None

        def connected() -> Any:
            server = connect()
            self._connected = True
            return server

        return connected

    def attach(self, stop: Callable[[str], None]) -> None:
        """Call *stop* with a reason at the first signal; call it immediately if the first signal has come before."""
        self._stop = stop
        if self._reason:
            stop(self._reason)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._connected:
            raise KeyboardInterrupt
        if self._reason:
            if number == signal.SIGINT:
                # Show the cursor, which a progress bar may have hidden.
                os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"")
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._reason, self.signal = f"stopped by {name}", number
        # Use another thread: this thread may hold a lock that stop() and writing need.
        threading.Thread(target=self._pause, daemon=True).start()

    def _pause(self) -> None:
        # Read stderr now: a progress bar replaces it by a stream that prints above the bar.
        print_line(
            sys.stderr, f"{self._reason[0].upper()}{self._reason[1:]}; releasing the chunks. Ctrl-C ends immediately."
        )
        if self._stop is not None:
            self._stop(self._reason)
