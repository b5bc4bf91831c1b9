"""Manifests from templates: rlhf/cluster/templates holds what they say and why."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import jinja2
import yaml

from rlhf.cluster.needs import Need, needs
from rlhf.cluster.options import Options
from rlhf.cluster.packing import GPUS_OF_A_NODE, Nodes, nodes_for
from rlhf.cluster.planned import Planned
from rlhf.cluster.run import CONFIG_DIRECTORY, CONFIG_FILE, ClusterRun, require_in_volume
from rlhf.cluster.serving import Serving, serving
from rlhf.cluster.sizes import Sizes, memory_of_a_pod, sizes
from rlhf.cluster.versions import KUBERAY, RAY

_CPUS_OF_SERVE = 4  # the ingress and the controller of Ray Serve, the engine's own actor, and Ray
_WIDTH = 100  # characters of the command in a comment
_LINGER_S = 60  # between the end of a run on SIGTERM and the kill of its pods: the operator looks every few seconds


def render(run: ClusterRun, options: Options, words: Sequence[str]) -> str:
    """The manifest of a run: one YAML file with every object, comments included. `words`: the command that asks.

    Raises ConfigError for inputs that pods could not see, and ResourceError for roles that no such nodes hold.
    """
    require_in_volume(run, options.mount)
    if options.kind == "rayservice":
        return _service(run, options, words)
    wanted = needs(run.stages)
    nodes = nodes_for(wanted, options.gpus_per_node, options.cpus_per_node)
    offloaded = Planned.of(run.stages, options.model).offloaded(run.stages, nodes)
    memory = memory_of_a_pod(options, nodes, offloaded)
    return _fill(run, options, words, sizes(options, nodes, wanted, run.object_store_gib, memory), {})


def _service(run: ClusterRun, options: Options, words: Sequence[str]) -> str:
    directory, stage = run.served()
    planned, most = Planned.of(run.stages, options.model), options.gpus_per_node or GPUS_OF_A_NODE
    engine = serving(stage, run.config(stage), planned, options.serving_gpu, most)
    need = Need("serve", {"engine": engine.resources})
    nodes = Nodes(
        1, int(engine.resources.gpus), options.cpus_per_node or int(engine.resources.cpus) + _CPUS_OF_SERVE
    )
    memory = memory_of_a_pod(options, nodes, least=engine.host)
    config = _serve_config(options, directory, engine)
    more = {"model": directory, "kv_cache_gib": engine.rollout.kv_cache_gib, "serve_config": config}
    return _fill(run, options, words, sizes(options, nodes, [need], run.object_store_gib, memory), more)


def _serve_config(options: Options, directory: str, serve: Serving) -> str:
    """Ray Serve's own config: one application with the OpenAI interface of Ray's LLM library."""
    rollout = serve.rollout
    engine = {
        "dtype": rollout.precision, "tensor_parallel_size": rollout.tensor_parallel,
        **({"max_model_len": rollout.max_model_len} if rollout.max_model_len else {}),
    }
    model = {
        "model_loading_config": {"model_id": options.name, "model_source": directory},
        "engine_kwargs": engine,
        "placement_group_config": {"bundle_per_worker": serve.bundle},
        "deployment_config": {"num_replicas": 1},
    }
    application = {
        "name": "llm", "route_prefix": "/", "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [model]},
    }
    return yaml.safe_dump({"applications": [application]}, sort_keys=False)


def _fill(run: ClusterRun, options: Options, words: Sequence[str], size: Sizes, more: dict[str, Any]) -> str:
    template = _environment().get_template(f"{options.kind}.yaml.j2")
    text = template.render(
        run=run, options=options, size=size, words=_wrapped(words), ray=RAY, kuberay=KUBERAY, linger=_LINGER_S,
        config_directory=CONFIG_DIRECTORY, config_file=CONFIG_FILE, **more,
    )
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _wrapped(words: Sequence[str]) -> str:
    """A command over several lines of a comment."""
    lines = [""]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append("    ")
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    return " \\\n#   ".join(lines)


def _environment() -> jinja2.Environment:
    """Undefined names are errors; text goes through `quoted` where YAML could read it as something else."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlhf.cluster"), undefined=jinja2.StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda value: json.dumps(str(value), ensure_ascii=False)
    return environment
