"""What a manifest needs to know beyond the run's config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from rlhf.cluster.mount import mount_problem
from rlhf.cluster.names import is_dns_1035, is_dns_1123, is_label_value, is_subdomain
from rlhf.cluster.rules.objects import LONGEST
from rlhf.config import suggestion
from rlhf.errors import ConfigError
from rlhf.plan.hardware import GPUS, Gpu

Kind = Literal["rayjob", "raycluster", "rayservice"]
KINDS: dict[Kind, str] = {"rayjob": "RayJob", "raycluster": "RayCluster", "rayservice": "RayService"}


@dataclass(frozen=True)
class Options:
    """The options of `rlhf cluster render`. Raises ConfigError, with every problem at once, when they are made."""

    kind: str
    image: str
    name: str = "rlhf"
    namespace: str = "rlhf"
    storage: str = "rlhf-runs"  # claim of the volume with models, data and runs
    mount: str = "/runs"  # where the volume lies in pods
    grace: int = 300  # seconds from a pod's end being asked for to its kill
    retries: int = 3  # new clusters after failures
    deadline: int | None = None  # seconds of a job with all retries
    gpus_per_node: int | None = None
    cpus_per_node: int | None = None
    memory: int | None = None  # GiB of a worker pod, without /dev/shm
    model: str | None = None  # whose sizes every model of the run has
    gpu: str = "H100-80"  # kind that serves
    head_cpus: int = 4
    head_memory: int = 16  # GiB, without /dev/shm
    queue: str | None = None  # of Kueue
    secret: str | None = None  # its keys become environment variables of every pod

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def serving_gpu(self) -> Gpu:
        """What `gpu` names."""
        return GPUS[self.gpu]

    @property
    def kind_name(self) -> str:
        return KINDS[self.kind]  # type: ignore[index]

    def _problems(self) -> Iterator[str]:
        if self.kind not in get_args(Kind):
            yield f"--kind: '{self.kind}'{suggestion(self.kind, get_args(Kind))}"
            return
        longest = LONGEST[self.kind_name]
        if not is_dns_1035(self.name) or len(self.name) > longest:
            yield (
                f"--name: '{self.name}' is no name of a {self.kind_name}: a lower-case letter, then lower-case "
                f"letters, digits and '-', {longest} at most"
            )
        if not is_dns_1123(self.namespace):
            yield f"--namespace: '{self.namespace}' is no namespace: lower-case letters, digits and '-', 63 at most"
        for option, value in (("--storage", self.storage), ("--secret", self.secret)):
            if value is not None and not is_subdomain(value):
                yield f"{option}: '{value}' is no name of an object: lower-case letters, digits, '-' and '.'"
        if self.queue is not None and not (self.queue and is_label_value(self.queue)):
            yield f"--queue: '{self.queue}' is no name of a queue: letters, digits, '-', '_' and '.', 63 at most"
        if self.queue is not None and self.kind == "rayservice":
            yield "--queue: a service runs until it is deleted and waits in no queue; leave it out"
        if self.gpu not in GPUS:
            yield f"--gpu: '{self.gpu}' is no GPU that is known here{suggestion(self.gpu, GPUS)}"
        if self.gpu != Options.gpu and self.kind != "rayservice":
            yield "--gpu: is what a rayservice is sized for, and this is none; leave it out"
        yield from self._places()

    def _places(self) -> Iterator[str]:
        problem = mount_problem(self.mount)
        if problem is not None:
            yield f"--mount: '{self.mount}' {problem}; give a place of its own, like /runs"
        name = self.image.rpartition("/")[2]
        if not self.image or self.image != "".join(self.image.split()):
            yield f"--image: '{self.image}' is no image; write it like registry.example.com/rlhf:0.1.0"
        elif "@sha256:" not in self.image and (":" not in name or name.endswith(":latest")):
            yield (
                f"--image: '{self.image}' names no version, so that a retry may run another one; add a tag, "
                "or better a digest"
            )
