"""
Limit how many chunks a worker fills at a time, and let further threads publish filled chunks meanwhile.

The INSERT of a chunk keeps the cores busy. The publication mostly waits, for example for metadata on disk or for
Keeper. So a thread gives its place to another thread as soon as the chunk's rows are staged.
"""

import threading
from collections.abc import Callable

from ..core.plan import Plan, RowProof, WriteMode
from .waiting import wait_for

# Seconds between two looks at the number of places, and at a stop, while no place is given back.
_LOOK_SECONDS = 0.2


def publishes_aside(plan: Plan) -> bool:
    """
    Return whether the publication of a chunk needs little of the server, so that it may run beside all fills.

    A publication is not cheap if it reads the source again or copies rows. A direct insert has no publication.
    """
    return plan.write_mode is not WriteMode.INSERT and plan.row_proof is RowProof.WRITTEN and not plan.keep_outside


class Slots:
    """
    The places for chunks that are filled at the same time. The threads of a worker share them.

    Args:
        width: Returns the number of places, which may change at any time.
        is_over: Returns whether no further chunk may start.

    Attributes:
        taken: The number of places that are taken now.
    """

    def __init__(self, width: Callable[[], int], is_over: Callable[[], bool]) -> None:
        self._width, self.is_over = width, is_over
        self._given = threading.Condition()
        self.taken = 0

    def take(self) -> bool:
        """Wait for a free place and take it; return False without a place if no further chunk may start."""
        with self._given:
            while not self.is_over():
                if self.taken < self._width():
                    self.taken += 1
                    return True
                self._given.wait(_LOOK_SECONDS)
            return False

    def give(self) -> None:
        """Give a place back."""
        with self._given:
            self.taken -= 1
            self._given.notify()


class Slot:
    """The place of one thread, which does not share this object; the thread may also have no place."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._held = slots, False

    def take(self) -> bool:
        """Wait until the thread has a place; return False if no further chunk may start."""
        if self._held:
            return not self._slots.is_over()
        self._held = self._slots.take()
        return self._held

    def give(self) -> None:
        """Give the place back, if the thread has one."""
        if self._held:
            self._held = False
            self._slots.give()


def work_in_threads(
    work: Callable[[int], None],
    width: Callable[[], int],
    drained: threading.Event,
    stopping: threading.Event,
    stop: Callable[[str], None],
) -> None:
    """
    Run *work* in threads until no work is left, and wait for the threads.

    A thread that ends early is started again, for example when there are more threads again.

    Args:
        work: Called in each thread with the thread's number, from 0; must not raise.
        width: Returns the number of threads, which may change at any time.
        drained: Set by a thread that finds no work.
        stopping: Set when no thread is to be started any more.
        stop: Called with a reason if this thread is interrupted, so that the other threads do not continue alone.
    """
    ended: dict[int, threading.Event] = {}

    def work_and_tell(number: int, end: threading.Event) -> None:
        try:
            work(number)
        finally:
            end.set()

    try:
        while not (drained.is_set() or stopping.is_set()):
            for number in range(width()):
                if number not in ended or ended[number].is_set():
                    end = ended[number] = threading.Event()
                    name = f"backfill-{number}"
                    threading.Thread(target=work_and_tell, args=(number, end), name=name, daemon=True).start()
            drained.wait(_LOOK_SECONDS)
        wait_for(list(ended.values()))
    except BaseException as error:
        stop(f"interrupted by {type(error).__name__}")
        wait_for(list(ended.values()))
        raise
