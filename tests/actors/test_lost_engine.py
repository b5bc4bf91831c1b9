"""An engine over several processes that loses one of them takes its actor along: Ray's own end of a live actor."""

from __future__ import annotations

import os

import pytest

from actors.pool import Pending, Pool
from actors.recovery import loss_of
from actors.title import Titled


class Loser(Titled):
    """An actor whose engine loses one of its processes."""

    def place(self) -> tuple[int, str]:
        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def lose(self) -> None:
        from rlhf.sampling.vllm_engine import EngineLost

        raise EngineLost("vLLM's executor failed: a worker process of the engine died")


def test_it_is_the_loss_of_that_actor_in_the_engines_words(ray_cluster: str) -> None:
    import ray

    pool = Pool("rollout", [ray.remote(Loser).options(name="rollout[0]", num_cpus=0).remote()])
    pool.locate()
    with pytest.raises(ray.exceptions.RayActorError) as raised:
        Pending(pool.call("lose"), lambda _: None).get()
    found = loss_of(raised.value, (3, "rollout"), None)
    assert found is not None and found.who == "rollout[0]"
    assert "a worker process of the engine died" in found.reason, found
    pool.stop()
