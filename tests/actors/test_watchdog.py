"""The watchdog ends what does not answer: the process that is stopped, not its peer that waits for it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from actors.pool import Pending, Pool
from actors.title import Titled
from actors.watchdog import Watchdog


class Sleeper(Titled):
    """An actor whose calls last as long as they are told."""

    def place(self) -> tuple[int, str]:
        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def pool(ray_cluster) -> Iterator[Pool]:
    import ray

    remote = ray.remote(Sleeper)
    made = Pool("sleeper", [remote.options(name=f"sleeper[{rank}]", num_cpus=0).remote() for rank in range(2)])
    made.locate()
    yield made
    made.stop()


def waits(pool: Pool, seconds: float) -> Pending:
    return Pending(pool.call("work", seconds), lambda _: None)


def test_the_stopped_one_of_two_is_named_and_ended(pool: Pool) -> None:
    from ray.exceptions import RayActorError

    os.kill(pool._places[1][0], signal.SIGSTOP)
    with Watchdog(2.0, lambda: "here") as watchdog, pytest.raises(RayActorError):
        watchdog.look_after({"sleeper": pool})
        waits(pool, 60.0).get()
    assert watchdog.verdict is not None
    assert [suspect.actor for suspect in watchdog.verdict.suspects] == ["sleeper[1]"]
    said = re.match(r"sleeper\[1\] in work did not answer for (\d+) s \(where that is merely", str(watchdog.verdict))
    assert said is not None and int(said[1]) >= 2


def test_without_a_stopped_one_all_that_are_asked_are(pool: Pool) -> None:
    from ray.exceptions import RayActorError

    with Watchdog(1.0, lambda: "here") as watchdog, pytest.raises(RayActorError):
        watchdog.look_after({"sleeper": pool})
        waits(pool, 60.0).get()
    assert [suspect.actor for suspect in watchdog.verdict.suspects] == ["sleeper[0]", "sleeper[1]"]


def test_a_run_that_goes_on_is_let_alone(pool: Pool) -> None:
    with Watchdog(0.5, time.monotonic) as watchdog:
        watchdog.look_after({"sleeper": pool})
        waits(pool, 2.0).get()
    assert watchdog.verdict is None


def test_a_run_that_waits_for_nobody_costs_nobody(pool: Pool) -> None:
    with Watchdog(0.3, lambda: "here") as watchdog:
        watchdog.look_after({"sleeper": pool})
        time.sleep(1.0)
    waits(pool, 0.0).get()
    assert watchdog.verdict is None
