"""Run by test_serving: starts the application of a rendered RayService on this machine, and asks it.

    python serve_application.py MANIFEST PORT
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

_PATIENCE_S = 1800  # with an engine that has just started, on a machine that does much else
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def main(manifest: str, port: int) -> None:
    import ray
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    spec = next(each for each in yaml.safe_load_all(Path(manifest).read_text()) if each["kind"] == "RayService")["spec"]
    os.environ.update(_environment(spec))
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    module, _, builder = application.import_path.partition(":")
    ray.init(address="local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    made = getattr(import_module(module), builder)(application.args)
    serve.run(made, name=application.name, route_prefix=application.route_prefix)
    models = ask(port, "models", None)
    (model,) = (each["id"] for each in models["data"])
    answer = ask(port, "completions", {"model": model, "prompt": "1 2 3", "max_tokens": 4, "temperature": 0})
    print(json.dumps({"model": model, "tokens": answer["usage"]["completion_tokens"]}), flush=True)
    serve.shutdown()
    ray.shutdown()


def _environment(spec: dict[str, Any]) -> dict[str, str]:
    """The engine's variables as the worker's container sets them."""
    container = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("VLLM_")}


def ask(port: int, what: str, content: dict[str, Any] | None) -> dict[str, Any]:
    """GET or POST to the interface of OpenAI."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{what}", data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
