"""A deterministic event loop: virtual time, and several processes whose steps it interleaves.

A process runs its callbacks in the order in which they were scheduled, as on an event loop of its
own. Which process runs next is decided by the seed. Time passes only when none has anything to do.
"""

import asyncio
import heapq
import logging
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")

# Steps without any time passing: more of them are a loop without end.
_MAX_STEPS: Final = 200_000

_MAX_CLOSES: Final = 100

_current: Final[ContextVar["Process"]] = ContextVar("process")


class Process:
    """What runs on a loop and can be stopped alone: tasks, callbacks and timers.

    Everything that is started from a process belongs to it.
    """

    def __init__(self, loop: "SimulatedLoop", name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.is_frozen = False
        self.is_dead = False
        self._loop = loop
        self.context: Final = copy_context()
        self.context.run(_current.set, self)

    def spawn(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Run a task in this process."""
        return self._loop.create_task(work, context=self.context.copy())

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back in this process."""
        self._loop.call_later(delay, callback, *arguments, context=self.context)

    def freeze(self) -> None:
        """Run nothing until `thaw`, as after SIGSTOP. What is due meanwhile is run then."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        self._loop.wake(self)

    def kill(self) -> None:
        """Run nothing any more, as after SIGKILL: no handler, no `finally`."""
        self.is_dead = True
        self.ready.clear()
        self._loop.bury(self)


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop without sockets and threads. `outside` is the process of what has none."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._now = 0.0
        self._sequence = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._runnable: list[Process] = []
        self._owners: WeakKeyDictionary[asyncio.Task[Any], Process] = WeakKeyDictionary()
        self.buried: list[asyncio.Task[Any]] = []
        self.on_discard: list[Callable[[], None]] = []
        self.steps = 0
        self._steps_at_this_time = 0
        self.connect: Callable[..., Any] | None = None  # see network.py
        self.outside: Final = Process(self, "outside")

    # Time

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]  # as typeshed has it: generic in the arguments
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # as `call_soon`

    def call_later(  # type: ignore[override]  # as `call_soon`
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as `call_soon`
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it in the heap: it is skipped when it is due."""

    # Processes

    def wake(self, process: Process) -> None:
        if process.ready and process not in self._runnable:
            self._runnable.append(process)

    def _enqueue(self, handle: asyncio.Handle) -> None:
        process: Process = _read_context(handle).get(_current, self.outside)
        if process.is_dead:
            return
        process.ready.append(handle)
        if len(process.ready) == 1 and not process.is_frozen:
            self._runnable.append(process)

    def create_task(  # type: ignore[override]  # as `call_soon`
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = (copy_context() if context is None else context).get(_current, self.outside)
        self._owners[task] = owner
        return task

    def bury(self, process: Process) -> None:
        """Keep the tasks of a dead process: what is collected runs its `finally`."""
        self.buried += [task for task, owner in self._owners.items() if owner is process]

    # Running

    def _run_once(self) -> None:
        process = self._pick_process()
        if process is None:
            self._advance()
            return
        handle = process.ready.popleft()
        if not process.ready:
            self._runnable.remove(process)
        self.steps += 1
        self._steps_at_this_time += 1
        if self._steps_at_this_time > _MAX_STEPS:
            raise EndlessLoop(f"{process.name} runs without end: {handle!r}")
        if not handle.cancelled():
            handle._run()  # noqa: SLF001 - as BaseEventLoop does

    def _pick_process(self) -> Process | None:
        while self._runnable:
            index = 0
            if len(self._runnable) > 1:
                index = int(self._random.random() * len(self._runnable))
            process = self._runnable[index]
            if process.ready and not process.is_frozen:
                return process
            del self._runnable[index]
        return None

    def _advance(self) -> None:
        """Let time pass until the next timer, and schedule all that are due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Deadlock("nothing is left that could happen")
        self._now = max(self._now, self._timers[0][0])
        self._steps_at_this_time = 0
        while self._timers and self._timers[0][0] <= self._now:
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._enqueue(handle)

    def discard(self) -> None:
        """End everything at once, without letting any task notice, and close the loop."""
        for callback in self.on_discard:
            callback()
        self.on_discard.clear()
        self._timers.clear()
        self._runnable.clear()
        self.close()

    # What a selector would do

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        """Do nothing: there is one thread."""

    async def create_connection(self, protocol_factory: Any, *address: Any, **_: Any) -> Any:
        if self.connect is None:
            raise OSError("there is no network")
        return await self.connect(protocol_factory, *address)

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]  # as `call_soon`
        raise NotImplementedError("a simulation has one thread")


class Deadlock(Exception):
    """Every process waits, and no timer is left."""


class EndlessLoop(Exception):
    """A process has run for too many steps without waiting."""


def current_process() -> Process:
    """Return the process that the caller runs in."""
    return _current.get()


def _read_context(handle: asyncio.Handle) -> Context:
    context: Context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001
    return context


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """Run work outside all processes on a new loop, then discard the loop and all that is left."""
    try:
        return loop.run_until_complete(work)
    finally:
        pending = [*asyncio.all_tasks(loop), *loop.buried]
        loop.buried.clear()
        loop.discard()
        with _silence():
            while pending:
                _close(pending.pop())


@contextmanager
def _silence() -> Iterator[None]:
    """Let tasks end that complain about how they end."""
    hook, level = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda _: None
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.unraisablehook = hook
        logging.disable(level)


def _close(task: "asyncio.Task[Any]") -> None:
    """Unwind a task that will not run any more, through every `finally` that awaits."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    coroutine: Any = task.get_coro()
    for _ in range(_MAX_CLOSES):
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001 - whatever it does, it has to end
            continue
        return
