"""Time that nobody waits for, and threads that take turns on it: a seeded run is the same run every time."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.exceptions import RayError


class FakeClock:
    """Seconds, which pass only when every thread sleeps or waits: the one that wakes first goes on, and it is then.

    One thread runs at a time, the one that made the clock at first.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: list[tuple[float, int, Callable[[], bool]]] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._wrong: AssertionError | None = None

    def __call__(self) -> float:
        return self.now

    def alarm(self, at: float) -> threading.Event:
        """An event that is set at a time."""
        self.set_at(at, event := threading.Event())
        return event

    def set_at(self, at: float, event: threading.Event) -> None:
        """Let whoever waits for the event go on at a time."""
        self._push(at, lambda: event.set() is None)

    def wait(self, event: threading.Event) -> None:
        """Let the others run until the event is set."""
        self._hand_over()
        event.wait()

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call again and again while time passes; it may not sleep. A failed assertion is raised by `join`."""
        def again() -> bool:
            try:
                call()
                self._push(self.now + seconds, again)
            except AssertionError as error:
                self._wrong = error
            return False

        self._push(self.now + seconds, again)

    def start(self, work: Callable[[], None]) -> None:
        """Another thread, which has its turn when this one sleeps."""
        turn = self.alarm(self.now)

        def run() -> None:
            turn.wait()
            work()
            self._hand_over()

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def join(self) -> None:
        """Returns when all other threads are gone; their work must have ended."""
        if self._wrong is not None:
            raise self._wrong
        for thread in self._threads:
            thread.join()

    def _push(self, at: float, call: Callable[[], bool]) -> None:
        heapq.heappush(self._alarms, (at, next(self._numbers), call))

    def _hand_over(self) -> None:
        """Until an alarm lets a thread go on."""
        is_running = False
        while not is_running:
            if not self._alarms:
                raise self._wrong or AssertionError("everybody waits for somebody else")
            at, _, call = heapq.heappop(self._alarms)
            self.now = max(self.now, at)
            is_running = call()


class Task:
    """What a `Future` is: a result that may not be there yet."""

    def __init__(self, clock: FakeClock, work: Callable[[], Any]) -> None:
        self._clock, self._work = clock, work
        self._waiting: list[threading.Event] = []
        self._value: Any = None
        self._error: Exception | None = None
        self.is_done = False

    def run(self) -> None:
        try:
            self._value = self._work()
        except (RayError, AssertionError) as error:
            self._error = error
        self.is_done = True
        for event in self._waiting:
            self._clock.set_at(self._clock.now, event)

    def wait(self) -> None:
        if not self.is_done:
            self._waiting.append(event := threading.Event())
            self._clock.wait(event)

    def result(self) -> Any:
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Beside:
    """What a `ThreadPoolExecutor` of one thread is, on a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._queued: deque[Task] = deque()
        self._running: Task | None = None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Task:
        self._queued.append(task := Task(self._clock, partial(work, *arguments)))
        if self._running is None:
            self._next()
        return task

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self._queued.clear()
        if wait and self._running is not None:
            self._running.wait()

    def _next(self) -> None:
        self._running = self._queued.popleft() if self._queued else None
        if self._running is not None:
            self._clock.start(partial(self._run, self._running))

    def _run(self, task: Task) -> None:
        task.run()
        self._next()
