"""SIGTERM and SIGINT as two calls: the first asks to finish, the second to leave now.

Python runs signal handlers between two bytecodes of the main thread, which may be inside a network
for seconds. The wake-up file descriptor is written at once, so a thread reads that instead.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WATCHED = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def watch(first: Callable[[], None], second: Callable[[int], None]) -> Iterator[None]:
    """Call `first()`, then `second(number)`, from another thread, when the signals come.

    Outside the main thread, where Python lets nobody handle signals, nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    previous = {number: signal.signal(number, lambda *_: None) for number in WATCHED}
    previous_fd = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(ours, first, second), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        pythons.close()
        listener.join()
        ours.close()


def _listen(ours: socket.socket, first: Callable[[], None], second: Callable[[int], None]) -> None:
    seen = 0
    while received := ours.recv(1):
        if received[0] not in WATCHED:
            continue
        seen += 1
        if seen == 1:
            first()
        else:
            second(received[0])
