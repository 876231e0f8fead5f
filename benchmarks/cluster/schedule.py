"""A discrete-event simulation of the schedule of `cafe predict` on a cluster.

What it takes over from `cafe_cli.cluster.cluster` and `cafe_cli.inference.on_cluster`: one client
plans the scenes, gives tasks to the scheduler while fewer than a number per worker are with it,
takes their results, and assembles the map of a scene when its last task has ended. It does one of
these at a time. Workers take the tasks that were given out in their order; the task of a worker
that is lost is given out again; when none are left, tasks that take long run a second time on idle
workers.
"""

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

INFINITE = math.inf

_SLOW, _LEAST = 3.0, 10.0  # medians and seconds after which a task runs a second time


@dataclass(frozen=True)
class Assumptions:
    """What a schedule is simulated from; times in seconds, sizes in bytes.

    Attributes
    ----------
    pixels : float
        Pixels of all maps.
    workers : int
        Workers from the start to the end, but for those that are lost and replaced.
    rate : float
        Megapixels of the map that a worker makes per second, alone on its machine.
    strip : float
        Megapixels of a strip.
    strips_per_task : int
        A task runs the row of windows above its first strip, too, so that it takes
        1 + `repeated` / `strips_per_task` times as long as its strips in one process.
    repeated : float
        That row of windows, in strips.
    scene : float
        Megapixels of a scene.
    startup : float
        From the start of a worker to its first task: imports, and the model on its device.
    slow_share : float
        Share of the workers that are slow.
    slow_factor : float
        How many times as long they take.
    losses : float
        Losses per hour of a worker.
    restart : float
        From a loss to the start of the worker that replaces the lost one.
    storage : float
        Bytes per second that the storage moves, for all workers together.
    bytes_per_pixel : float
        Bytes that a worker reads and writes for a pixel that it computes, at the same time.
    overhead : float
        Time of the client per task: give it out, take its result.
    planning : float
        Time of the client per scene, before its first task.
    assembling : float
        Megapixels per second that a thread of the client turns from strips into a map.
    assemblers : int
        Maps that are assembled at a time, beside all else.
    ahead : int
        Tasks per worker that are given out at a time.
    copies : bool
        Whether slow tasks run a second time at the end.
    seed : int
        Of the random choice of slow workers and of the times of losses.
    """

    pixels: float
    workers: int
    rate: float
    strip: float = 6.6
    strips_per_task: int = 16
    repeated: float = 1.0
    scene: float = 10_000.0
    startup: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    losses: float = 0.0
    restart: float = 0.0
    storage: float = INFINITE
    bytes_per_pixel: float = 4.0
    overhead: float = 0.0
    planning: float = 0.0
    assembling: float = INFINITE
    assemblers: int = 1
    ahead: int = 2
    copies: bool = True
    seed: int = 0

    @property
    def task_pixels(self) -> float:
        """Pixels of the map that a task makes; the last may have fewer."""
        return self.strip * 1e6 * self.strips_per_task

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return math.ceil(self.pixels / self.task_pixels - 1e-9)

    @property
    def tasks_per_scene(self) -> int:
        """Number of tasks of a scene, at least one."""
        return max(math.ceil(self.scene * 1e6 / self.task_pixels - 1e-9), 1)

    @property
    def task_seconds(self) -> float:
        """Time of a task on a worker that waits for nothing."""
        return self.task_pixels / (self.rate * 1e6) * self.repetition

    def size(self, task: int) -> float:
        """Return what a task computes, as a share of what the others do: less for the last."""
        if task < self.tasks - 1:
            return 1.0
        own = self.pixels / self.task_pixels - task
        return (own + self.repetition - 1) / self.repetition

    @property
    def repetition(self) -> float:
        """Pixels that tasks compute, as a multiple of those that one process computes."""
        return 1 + self.repeated / self.strips_per_task

    @property
    def task_bytes(self) -> float:
        """Bytes that a task reads and writes."""
        return self.task_pixels * self.bytes_per_pixel * self.repetition

    @property
    def ideal(self) -> float:
        """Time that the work takes if it is shared evenly and nothing else takes time."""
        return self.pixels / (self.rate * 1e6) / self.workers


@dataclass(frozen=True)
class Outcome:
    """What a simulation found.

    Attributes
    ----------
    makespan : float
        Seconds from the start of the workers to the last map.
    efficiency : float
        The ideal time as a share of it.
    reruns, copies, lost : int
        Tasks run again since their worker was lost; tasks run a second time; losses of workers.
    busy : float
        Share of their time, from the start to the end, that workers spent on tasks that counted.
    """

    makespan: float
    efficiency: float
    reruns: int
    copies: int
    lost: int
    busy: float


class Storage:
    """Storage whose bandwidth all transfers share equally (processor sharing).

    A transfer of as many bytes as every other has moved since a common start ends at a level of
    that count, which does not change with the number of transfers.
    """

    def __init__(self, bandwidth: float) -> None:
        self._bandwidth = bandwidth
        self._level = self._now = 0.0
        self._ends: list[tuple[float, int]] = []
        self._open: set[int] = set()

    def add(self, now: float, name: int, size: float) -> None:
        """Begin a transfer."""
        self._advance(now)
        self._open.add(name)
        heapq.heappush(self._ends, (self._level + size, name))

    def remove(self, now: float, name: int) -> None:
        """Give up a transfer, or end it."""
        self._advance(now)
        self._open.discard(name)

    def next(self) -> tuple[float, int] | None:
        """Return when the next transfer ends, if none begins before, and its name."""
        while self._ends and self._ends[0][1] not in self._open:
            heapq.heappop(self._ends)
        if not self._ends:
            return None
        level, name = self._ends[0]
        return self._now + (level - self._level) * len(self._open) / self._bandwidth, name

    def _advance(self, now: float) -> None:
        if self._open:
            self._level += (now - self._now) * self._bandwidth / len(self._open)
        self._now = now


@dataclass
class _Attempt:
    """A task on a worker: it ends when it is computed and its bytes are moved."""

    task: int
    worker: int
    start: float
    waits_for: int


@dataclass
class _Worker:
    factor: float
    is_up: bool = False
    attempt: int | None = None
    busy: float = 0.0
    chance: random.Random = field(default_factory=random.Random)


class Simulation:
    """One run; `run` may be called once.

    Parameters
    ----------
    assumptions : Assumptions
    given_losses : iterable of (float, int)
        Times at which workers are lost, besides those drawn at random.
    """

    def __init__(
        self, assumptions: Assumptions, given_losses: Iterable[tuple[float, int]] = ()
    ) -> None:
        self._given, self._storage = assumptions, Storage(assumptions.storage)
        self._now, self._order = 0.0, itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._attempts: dict[int, _Attempt] = {}
        self._names = itertools.count()
        self._transfers = 0  # version of the next end of a transfer
        self._look = INFINITE  # when slow tasks are looked for next
        self._issued: deque[int] = deque()  # given out, and not on a worker
        self._next_task = self._open = self._planned = self._accepted = 0
        self._maps = 0  # that wait for an assembler, or are with one
        self._assemblers = [0.0] * assumptions.assemblers  # when each is free
        self._running: dict[int, set[int]] = {}  # attempts by task
        self._left = [0] * math.ceil(assumptions.tasks / assumptions.tasks_per_scene)
        for task in range(assumptions.tasks):
            self._left[self._scene(task)] += 1
        self._results: deque[int] = deque()
        self._client_is_busy = False
        self._times: deque[float] = deque(maxlen=1000)
        self._reruns = self._copies = self._lost = 0
        self._workers = self._make_workers()
        self._idle: deque[int] = deque()
        for when, worker in given_losses:
            self._at(when, lambda w=worker: self._lose(w))  # type: ignore[misc]

    def run(self) -> Outcome:
        """Simulate until the last map is assembled."""
        given = self._given
        for number in range(given.workers):
            self._at(given.startup, lambda n=number: self._come_up(n))  # type: ignore[misc]
        self._take_turn()
        while self._accepted < given.tasks or self._maps:
            self._now, _, act = heapq.heappop(self._events)
            act()
        useful = sum(worker.busy for worker in self._workers)
        return Outcome(
            makespan=self._now,
            efficiency=given.ideal / self._now,
            reruns=self._reruns,
            copies=self._copies,
            lost=self._lost,
            busy=useful / (given.workers * self._now),
        )

    def _make_workers(self) -> list[_Worker]:
        given = self._given
        slow = round(given.slow_share * given.workers)
        chosen = set(random.Random(given.seed).sample(range(given.workers), slow))
        # Each worker has its own numbers, so that another number of workers changes none of them.
        return [
            _Worker(
                given.slow_factor if n in chosen else 1.0, chance=random.Random(f"{given.seed} {n}")
            )
            for n in range(given.workers)
        ]

    def _scene(self, task: int) -> int:
        return task // self._given.tasks_per_scene

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _come_up(self, number: int) -> None:
        worker = self._workers[number]
        worker.is_up = True
        if self._given.losses:
            when = self._now + worker.chance.expovariate(self._given.losses / 3600)
            self._at(when, lambda: self._lose(number))
        self._free(number)

    def _lose(self, number: int) -> None:
        worker = self._workers[number]
        if not worker.is_up:
            return
        worker.is_up = False
        self._lost += 1
        if worker.attempt is not None:
            attempt = self._end(worker.attempt)
            if not self._running[attempt.task]:
                self._reruns += 1
                self._issued.appendleft(attempt.task)
                self._hand_out()
        back = self._now + self._given.restart + self._given.startup
        if back < INFINITE:
            self._at(back, lambda: self._come_up(number))

    def _free(self, number: int) -> None:
        self._idle.append(number)
        self._hand_out()

    def _hand_out(self) -> None:
        """Let idle workers begin the tasks that were given out, or the slow ones again."""
        while self._idle and self._issued:
            number = self._idle.popleft()
            if self._is_idle(number):
                self._begin(self._issued.popleft(), number)
        if self._idle and self._given.copies and self._next_task == self._given.tasks:
            self._copy_slow()

    def _is_idle(self, number: int) -> bool:
        return self._workers[number].is_up and self._workers[number].attempt is None

    def _begin(self, task: int, number: int) -> None:
        given, worker, name = self._given, self._workers[number], next(self._names)
        moves = given.storage < INFINITE and given.bytes_per_pixel > 0
        self._attempts[name] = _Attempt(task, number, self._now, 1 + moves)
        self._running.setdefault(task, set()).add(name)
        worker.attempt = name
        seconds = given.task_seconds * worker.factor * given.size(task)
        self._at(self._now + seconds, lambda: self._progress(name))
        if moves:
            self._storage.add(self._now, name, given.task_bytes * given.size(task))
            self._watch_storage()

    def _watch_storage(self) -> None:
        """Expect the next end of a transfer; what was expected before no longer holds."""
        self._transfers += 1
        version = self._transfers
        if found := self._storage.next():
            when, name = found
            self._at(max(when, self._now), lambda: self._moved(name, version))

    def _moved(self, name: int, version: int) -> None:
        if version == self._transfers:
            self._storage.remove(self._now, name)
            self._watch_storage()
            self._progress(name)

    def _progress(self, name: int) -> None:
        """One of the two things that an attempt waits for has come."""
        if (attempt := self._attempts.get(name)) is None:
            return
        attempt.waits_for -= 1
        if attempt.waits_for:
            return
        self._end(name)
        self._workers[attempt.worker].busy += self._now - attempt.start
        self._times.append(self._now - attempt.start)
        for other in [*self._running[attempt.task]]:
            self._free(self._end(other).worker)
        self._results.append(attempt.task)
        del self._running[attempt.task]
        self._free(attempt.worker)
        self._take_turn()

    def _end(self, name: int) -> _Attempt:
        attempt = self._attempts.pop(name)
        self._running[attempt.task].discard(name)
        self._workers[attempt.worker].attempt = None
        self._storage.remove(self._now, name)
        if attempt.waits_for:
            self._watch_storage()
        return attempt

    def _copy_slow(self) -> None:
        """Begin a second copy of tasks that take three times the median, or look again later."""
        if not self._times or (self._look > self._now and self._look < INFINITE):
            return
        self._look = INFINITE
        after = max(_SLOW * statistics.median(self._times), _LEAST)
        alone = [self._attempts[next(iter(n))] for n in self._running.values() if len(n) == 1]
        for attempt in sorted(alone, key=lambda attempt: attempt.start):
            if attempt.start + after > self._now:
                self._look = attempt.start + after
                self._at(self._look, self._hand_out)
                return
            while self._idle and not self._is_idle(self._idle[0]):
                self._idle.popleft()
            if not self._idle:
                return
            self._copies += 1
            self._begin(attempt.task, self._idle.popleft())

    def _take_turn(self) -> None:
        """Let the client do the next thing, unless it is busy: give tasks out, or take a result."""
        given = self._given
        while not self._client_is_busy:
            if self._next_task < given.tasks and self._open < given.ahead * given.workers + 1:
                if self._scene(self._next_task) == self._planned and given.planning:
                    self._spend(given.planning, self._plan)
                    return
                self._issued.append(self._next_task)
                self._next_task += 1
                self._open += 1
                self._hand_out()
            elif self._results:
                self._spend(self._take_result(), self._taken)
            else:
                return

    def _spend(self, seconds: float, act: Callable[[], None]) -> None:
        self._client_is_busy = True

        def end() -> None:
            self._client_is_busy = False
            act()
            self._take_turn()

        self._at(self._now + seconds, end)

    def _plan(self) -> None:
        self._planned += 1

    def _take_result(self) -> float:
        """Return the time it takes to take a result; begin to assemble a map that is complete."""
        scene, given = self._scene(self._results.popleft()), self._given
        self._left[scene] -= 1
        if self._left[scene]:
            return given.overhead
        first = scene * given.tasks_per_scene
        count = min(given.tasks_per_scene, given.tasks - first)
        begin = max(heapq.heappop(self._assemblers), self._now + given.overhead)
        end = begin + count * given.task_pixels / (given.assembling * 1e6)
        heapq.heappush(self._assemblers, end)
        self._maps += 1
        self._at(end, self._assembled)
        return given.overhead

    def _assembled(self) -> None:
        self._maps -= 1

    def _taken(self) -> None:
        self._open -= 1
        self._accepted += 1


CAUSES: dict[str, dict[str, float]] = {
    "start of the workers": {"startup": 0.0},
    "windows run twice": {"repeated": 0.0},
    "slow workers": {"slow_share": 0.0},
    "lost workers": {"losses": 0.0},
    "storage": {"storage": INFINITE},
    "client, per task": {"overhead": 0.0},
    "client, plans": {"planning": 0.0},
    "maps": {"assembling": INFINITE},
}
"""What takes time, and the assumptions without it."""


def costs(assumptions: Assumptions) -> dict[str, float]:
    """Return by how many seconds each cause alone delays the end.

    That is the time of a run with all causes, less that of a run without this one. Causes may hide
    each other, so that their sum is not the whole delay. ``whole tasks`` is what is left without
    any: workers wait for the last tasks.
    """
    whole = Simulation(assumptions).run().makespan
    found = {
        cause: whole - Simulation(replace(assumptions, **change)).run().makespan  # type: ignore[arg-type]
        for cause, change in CAUSES.items()
    }
    none: dict[str, float] = {}
    for change in CAUSES.values():
        none |= change
    bare = replace(assumptions, **none)  # type: ignore[arg-type]
    return {**found, "whole tasks": Simulation(bare).run().makespan - assumptions.ideal}
