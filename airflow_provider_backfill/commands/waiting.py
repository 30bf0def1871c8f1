"""Wait for threads in a way that signal handlers can interrupt."""

import threading


def wait_for(events: list[threading.Event]) -> None:
    """
    Wait until all *events* are set; signal handlers can run meanwhile.

    Joining threads instead would fail: an interrupted join marks its thread as ended (Python 3.11).
    """
    for event in events:
        while not event.wait(0.2):
            pass
