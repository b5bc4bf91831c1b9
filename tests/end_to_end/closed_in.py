"""Run by test_closed_in.py inside a network that leads nowhere: a reward service, the command as a user types it, and
strangers who try to speak to its Ray cluster.

Arguments: a directory with pipeline.yaml, to which the service's address is added. The service's token is asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Service(BaseHTTPRequestHandler):
    """Scores a response by its length, for whoever knows the token."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed = self.headers.get("Authorization") == f"Bearer {os.environ['JUDGE']}"
        body = json.dumps({"scores": [float(len(each["response"])) for each in asked["samples"]]}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None: ...


STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    print("refused")
else:
    print("let in")
"""


def strangers(directory: Path) -> dict[str, str]:
    """What the cluster answers to those who have another token, none, or its own, by what they have."""
    address = wait_for_head(directory)
    others = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    ways = {"another token": others, "no token": {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, "its token": {}}
    return {
        name: subprocess.run(
            [sys.executable, "-c", STRANGER, address], env={**os.environ, **variables}, capture_output=True, text=True
        ).stdout.strip()
        for name, variables in ways.items()
    }


def wait_for_head(directory: Path) -> str:
    """The address of the cluster, once the run trains on it."""
    import psutil

    while not list((directory / "run" / "sft.work").glob("ray_train/*")):
        time.sleep(0.2)
    heads = {each.pid for each in psutil.Process().children(recursive=True) if "gcs_server" in name_of(each)}
    ports = [each.laddr.port for each in psutil.net_connections("tcp") if each.pid in heads and each.status == "LISTEN"]
    return f"127.0.0.1:{ports[0]}"


def name_of(process) -> str:
    """The name of a process; "" of one that has ended."""
    import psutil

    try:
        return process.name()
    except psutil.Error:
        return ""


def main() -> int:
    directory = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"stages.ppo.reward.parts.judge.url=http://127.0.0.1:{server.server_port}/score"
    command = [sys.executable, "-m", "rlhf", "run", str(directory / "pipeline.yaml"), url]
    with open(directory / "output.log", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        threading.Thread(target=lambda: tell_strangers(directory), daemon=True).start()
        return process.wait()


def tell_strangers(directory: Path) -> None:
    (directory / "strangers.json").write_text(json.dumps(strangers(directory)))


if __name__ == "__main__":
    sys.exit(main())
