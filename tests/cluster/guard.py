"""
Run a command that cannot watch its parent itself, such as java: ``python guard.py COMMAND …``.

The command ends when the process that started the guard ends in any way. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Run *command* until it ends, or until stdin is closed."""
    libc = ctypes.CDLL(None)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    )

    def wait() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    threading.Thread(target=wait, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
