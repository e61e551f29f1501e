"""Several threads that do the same while something happens."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def crowd(count: int, work: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Runs work(number, stop) on each of so many threads while the block runs, and waits for them at its end.

    number: counts the threads from 0. stop: set when the block ends, upon which work must return.
    """
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(number, stop)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
