"""An engine over several processes of which one dies: the process that holds it goes, so that the run recovers.

The executor, its watch over the workers and its queues are vLLM's own; the workers do nothing but sleep.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from rlhf.sampling import vllm_engine
from rlhf.sampling.vllm_engine import EngineLost, Sampling, VllmEngine
from tests.limits import HANG_S, wait_until

SOON_S = 0.3


class Vllm:
    """What an engine asks of vLLM's LLM, without a model. `generate` raises what it is told to."""

    def __init__(self, executor: Any, raises: Callable[[], Exception] = AssertionError) -> None:
        self.llm_engine = self
        self.model_executor = executor
        self.raises = raises

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        return self.model_executor.collective_rpc(method, args=args)

    def generate(self, *_: Any, **__: Any) -> list[Any]:
        raise self.raises()


def engine_over(llm: Vllm) -> VllmEngine:
    engine = object.__new__(VllmEngine)
    engine._llm = llm
    return engine


@pytest.fixture
def worker() -> Iterator[BaseProcess]:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60.0,), daemon=True)
    process.start()
    yield process
    process.kill()
    process.join()


@pytest.fixture
def executor(worker: BaseProcess) -> Any:
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor, WorkerProcHandle

    made = object.__new__(MultiprocExecutor)
    made.is_failed, made.failure_callback, made.futures_queue = False, None, deque()
    made.answers = MessageQueue(1, 1, max_chunk_bytes=4096)
    received = MessageQueue.create_from_handle(made.answers.export_handle(), 0)
    made.rpc_broadcast_mq, made.response_mqs = MessageQueue(1, 1, max_chunk_bytes=4096), [received]
    made.workers = [WorkerProcHandle(worker, 0, received, [])]
    made.start_worker_monitor()
    return made


@pytest.fixture(autouse=True)
def patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a death is to be noticed, it is, however slow the machine."""
    monkeypatch.setattr(vllm_engine, "_NOTICED_S", HANG_S)


def fail(executor: Any, said: str) -> None:
    """The worker answers with an error, as one does whose peer is gone."""
    from vllm.v1.executor.multiproc_executor import WorkerProc

    executor.answers.enqueue((WorkerProc.ResponseStatus.FAILURE, said))


def test_a_worker_that_dies_while_it_is_waited_for_takes_the_engine_with_it(executor: Any, worker: BaseProcess) -> None:
    engine = engine_over(Vllm(executor))
    threading.Timer(SOON_S, worker.kill).start()
    with pytest.raises(EngineLost, match="a worker of its vLLM engine died") as lost:
        engine.call("update_weights")
    assert isinstance(lost.value.__cause__, RuntimeError) and str(lost.value.__cause__) in (
        "cancelled", "Executor failed.",  # while it waits, and before
    )
    wait_until(lambda: executor.rpc_broadcast_mq is None)  # vLLM wakes who waits before it takes its queues away
    with pytest.raises(EngineLost) as later:
        engine.call("update_weights")
    assert isinstance(later.value.__cause__, AssertionError)


def test_so_does_one_whose_death_was_noticed_just_now(executor: Any) -> None:
    executor.is_failed = True
    with pytest.raises(EngineLost) as lost:
        engine_over(Vllm(executor)).call("update_weights")
    assert str(lost.value.__cause__) == "Executor failed."


def test_so_does_one_of_which_another_worker_speaks_first(executor: Any, worker: BaseProcess) -> None:
    fail(executor, "Connection closed by peer")
    threading.Timer(SOON_S, worker.kill).start()
    with pytest.raises(EngineLost) as lost:
        engine_over(Vllm(executor)).call("update_weights")
    assert "Connection closed by peer" in str(lost.value.__cause__)


def test_an_error_of_workers_that_live_is_itself(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "_NOTICED_S", SOON_S)
    fail(executor, "CUDA out of memory")
    with pytest.raises(RuntimeError, match="Worker failed with error 'CUDA out of memory'"):
        engine_over(Vllm(executor)).call("update_weights")


def test_an_engine_core_that_says_it_is_dead_is() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    with pytest.raises(EngineLost):
        engine_over(Vllm(None, EngineDeadError)).generate([[1]], [Sampling(1)], [0])


def test_an_error_of_an_engine_in_one_process_is_itself() -> None:
    """At once: there is no process whose end could still be noticed."""
    with pytest.raises(ValueError, match="ours"):
        engine_over(Vllm(object(), lambda: ValueError("ours"))).generate([[1]], [Sampling(1)], [0])


def test_ray_is_told_that_the_actor_was_lost() -> None:
    """Ray ends an actor that raises SystemExit, as lost where the code is not 0, and takes the words along."""
    lost = EngineLost("a worker of its vLLM engine died")
    assert isinstance(lost, SystemExit) and not isinstance(lost, Exception)
    assert lost.code == 1 and lost.ray_terminate_msg == str(lost) == "a worker of its vLLM engine died"
