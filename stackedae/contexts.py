"""Contexts that threads enter and leave in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack


class SharedContext:
    """A setting of the whole process: the first to enter makes it, the last to leave ends it.

    Parameters
    ----------
    make : callable
        Returns a context manager; called whenever nobody is inside and somebody enters.

    Examples
    --------
    >>> from contextlib import contextmanager
    >>> from stackedae.contexts import SharedContext
    >>> @contextmanager
    ... def told():
    ...     print("begin")
    ...     yield
    ...     print("end")
    >>> shared = SharedContext(told)
    >>> with shared, shared:
    ...     print("inside")
    begin
    inside
    end
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self.make, self.lock, self.inside, self.made = make, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.made.enter_context(self.make())
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.made.close()
