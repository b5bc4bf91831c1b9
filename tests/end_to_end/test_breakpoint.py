"""A breakpoint in an actor: a terminal reaches it, looks round, and lets the run go on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.limits import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = """
stopped = False

def score(sample):
    global stopped
    if not stopped:
        stopped = True
        breakpoint()
    return 1.0
"""


@pytest.mark.slow
def test_a_breakpoint_in_an_actor_is_reached_from_a_terminal(tiny_models, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    command = [
        sys.executable, "-m", "rlhf", "ppo", f"output={tmp_path / 'ppo'}", "steps=1", f"prompts={tiny_models.prompts}",
        f"policy.model={tiny_models.tied}", "loop.kind=rollouts_only", f"reference.model={tiny_models.tied}",
        "ppo.advantage.kind=reinforce_pp", "reward.parts.mine.kind=function", "reward.parts.mine.function=score",
        f"reward.parts.mine.file={tmp_path / 'mine.py'}", "rollout.prompts_per_step=4", "rollout.max_new_tokens=8",
        "rollout.max_model_len=128", "rollout.resources.cpus=0.5", "cluster.cpus=2", "cluster.debug=true",
        "cluster.dashboard=true", "cluster.object_store_gib=0.2",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output: list[str] = []
    found = threading.Event()

    def read() -> None:
        for line in run.stdout:
            output.append(line)
            if "RemotePdb session open at" in line:
                found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: found.is_set() or run.poll() is not None)
        assert found.is_set(), "".join(output)
        opened = next(line for line in output if "RemotePdb session open at" in line)
        assert "reward.mine[0]" in opened  # it says which actor waits
        port = int(re.search(r"localhost:(\d+)", opened).group(1))
        answers = ask(port, "p 'the response is', sample.response", "p 6 * 7", "c")
        assert "('the response is', " in answers and "42" in answers
        assert run.wait(HANG_S) == 0, "".join(output)
        assert any(re.match(r"dashboard  http://127\.0\.0\.1:\d+  \(it asks for a token: ", line) for line in output)
    finally:
        run.kill()
        reader.join()


def ask(port: int, *commands: str) -> str:
    """What the debugger answers, as a terminal would see it."""
    answers = ""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:
        for command in commands:
            while not answers.endswith("(Pdb) "):
                answers += connection.recv(4096).decode()
            answers += "\n"
            connection.sendall(f"{command}\n".encode())
    return answers
