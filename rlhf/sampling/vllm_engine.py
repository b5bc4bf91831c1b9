"""One vLLM engine in this process, and the sending ends of vLLM's weight transfer.

The only module that imports vLLM, inside functions.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from rlhf.device import Precision, has_gpu
from rlhf.errors import ModelError, ResourceError
from rlhf.models.pickles import require_safetensors
from rlhf.sampling.weight_transfer import TransferGroup, WeightSender, WeightSource

NOT_PUBLISHED = -1  # version of weights as loaded from disk, half updated, or given up
BATCHED_TOKENS = 8192  # prompt tokens of one prefill step
_NOTICED_S = 2.0  # a worker whose peer died may say so before vLLM's watch over the processes does


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built; sizes in tokens, memory in GiB or as a fraction of the GPU."""

    model: str
    max_model_len: int
    precision: Precision = "float32"
    max_sequences: int = 256
    kv_cache_gib: int = 1
    gpu_memory_fraction: float = 0.85
    tensor_parallel: int = 1
    prefix_caching: bool = False
    sleep: bool = False
    weight_transfer: Literal["nccl", "ipc"] | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k` −1 and `top_p` 1 leave the full distribution."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled response: its tokens (the end token included), their log-probabilities in nats under the
    distribution that was sampled from, and whether it ended by itself rather than at the length limit."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


class EngineLost(SystemExit):
    """A worker process of the engine died, and the engine with it: what holds the engine ends.

    As a SystemExit it ends a Ray actor, which the run then knows as lost; Ray tells `ray_terminate_msg`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code, self.ray_terminate_msg = 1, message


class VllmEngine:
    """A vLLM engine that knows the version of the weights it holds, NOT_PUBLISHED when it holds none that count."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.version = NOT_PUBLISHED
        self._asleep: set[str] = set()
        self._llm = _build(options)
        self.generate([[0]], [Sampling(max_new_tokens=2)], [0])  # what is made at the first use, made now

    def generate(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one response per prompt, each in its own way; request i draws from a generator seeded with seeds[i]
        alone, so the result does not depend on what else is in the batch."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, seed=seed,
                max_tokens=sampling.max_new_tokens, stop_token_ids=list(sampling.stop_token_ids),
                logprobs=0, detokenize=False,
            )
            for sampling, seed in zip(samplings, seeds, strict=True)
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._ask("generate", inputs, params, use_tqdm=False)
        return [_completion(output.outputs[0]) for output in outputs]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take new weights that lie in this process's memory, and forget every cached prefix."""
        self.wake("weights")
        self.call("receive_weights", list(weights))
        self.weights_changed(version)

    def init_weight_transfer(self, info: dict[str, Any]) -> None:
        """Meet the sender. With NCCL this returns when every rank of the group has come."""
        self.call("init_weight_transfer_engine", info)

    def start_weight_update(self) -> None:
        """Take the memory for weights if it was given up, and make ready for new ones; the old ones are void now."""
        self.wake("weights")
        self.version = NOT_PUBLISHED
        self.call("start_weight_update")

    def update_weights(self, update: dict[str, Any]) -> None:
        """Receive one part of the weights, or all; with NCCL this returns when the sender has sent them."""
        self.call("update_weights", update)

    def finish_weight_update(self, version: int) -> None:
        """The weights are complete."""
        self.call("finish_weight_update")
        self.weights_changed(version)

    def weights_changed(self, version: int) -> None:
        """The weights are now those of `version`: what was computed under older ones must not be reused."""
        self._ask("reset_prefix_cache")
        self.version = version

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every worker of the engine by name. Nothing is serialised on the way when the engine has
        one worker: it lives in this process."""
        return self._ask("collective_rpc", method, args=args)

    def sleep(self) -> None:
        """Give the device memory of weights and KV cache back; new weights must be published before sampling."""
        if self.options.sleep:
            self._ask("sleep", level=2)
            self._asleep = {"weights", "kv_cache"}
            self.version = NOT_PUBLISHED

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take the device memory for weights or KV cache again, where it was given back. What it held is lost."""
        if part in self._asleep:
            self._ask("wake_up", tags=[part])
            self._asleep.remove(part)

    def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        """What vLLM answers. Raises EngineLost where a worker process is gone: vLLM's error for that differs by the
        moment."""
        try:
            return getattr(self._llm, method)(*args, **options)
        except Exception as error:
            if _is_lost(self._llm, error):
                raise EngineLost("a worker of its vLLM engine died") from error
            raise


def _is_lost(llm: Any, error: Exception) -> bool:
    """Whether a process of an engine over several is gone, and `error` came of that."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return True
    executor, deadline = getattr(llm.llm_engine, "model_executor", None), time.monotonic() + _NOTICED_S
    if not hasattr(executor, "is_failed"):
        return False  # all of it is in this process
    while not executor.is_failed and time.monotonic() < deadline:
        time.sleep(0.05)
    return executor.is_failed


def prepare_environment(options: EngineOptions) -> None:
    """Set what vLLM reads from the environment when it is imported; call before anything imports it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # Splitting a long KV cache over threads depends on what else is in the batch; without it the
    # log-probabilities of a request are bit-equal whatever its batch.
    os.environ.setdefault("VLLM_CPU_ATTN_SPLIT_KV", "0")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_cache_gib)
    if not has_gpu():
        # Nothing of a model is compiled on a CPU. What would be is a comparison of log-probabilities, and to find a
        # compiler and wait for it takes seconds of every engine's start.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)


def _build(options: EngineOptions) -> Any:
    prepare_environment(options)
    require_safetensors(options.model)
    from vllm import LLM

    gc.freeze()  # it collects garbage five times while it builds, each time among all that was just imported
    extra: dict[str, Any] = {}
    if has_gpu():
        extra["max_num_batched_tokens"] = max(BATCHED_TOKENS, options.max_sequences)  # as `rlhf plan` counts
        extra["gpu_memory_utilization"] = options.gpu_memory_fraction
        extra["enable_sleep_mode"] = options.sleep
    else:
        # A prompt that is prefilled in two parts makes vLLM rewind the request's seeded generator, which CPU
        # generators cannot do: whole prompts only.
        extra["enable_chunked_prefill"] = False
        extra["max_num_batched_tokens"] = max(BATCHED_TOKENS, options.max_model_len)
    if options.weight_transfer is not None:
        extra["weight_transfer_config"] = {"backend": options.weight_transfer}
    try:
        return LLM(
            model=options.model, dtype=options.precision, max_model_len=options.max_model_len,
            max_num_seqs=options.max_sequences, enforce_eager=not has_gpu(), skip_tokenizer_init=True,
            tensor_parallel_size=options.tensor_parallel, trust_remote_code=False, generation_config="vllm",
            load_format="safetensors",  # else it falls back to pickles where there are none
            distributed_executor_backend="uni" if options.tensor_parallel == 1 else "mp",
            worker_extension_cls="rlhf.sampling.worker_extension.WeightReceiver",
            logprobs_mode="processed_logprobs", enable_prefix_caching=options.prefix_caching,
            disable_log_stats=True, use_tqdm_on_load=False, **extra,
        )
    except ValueError as error:
        raise ModelError(f"{options.model}: vLLM cannot serve this model: {_first_line(error)}") from error


class _EnginesCalledByOthers:
    """What vLLM's NCCL sender calls to make the engines receive, doing nothing.

    The driver calls them, together with the sender. Were the sender to call them, the failure of an engine would
    leave it inside a broadcast that nobody receives, and nobody would hear of it.
    """

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def open_nccl_sender(group: TransferGroup, rank: int, source: WeightSource) -> WeightSender:
    """The sending end on rank `rank` of the policy: rank 0 joins `group`, which the engines must join meanwhile."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

    info = NCCLTrainerInitInfo(
        rank=rank, master_address=group.address, master_port=group.port, world_size=group.size, packed=True,
        packed_buffer_size_bytes=group.bucket_bytes,
    )
    sender = NCCLTrainerWeightTransferEngine.trainer_init(info, client=_EnginesCalledByOthers(), source=source)
    if rank == 0 and sender.model_update_group.disabled:
        raise ResourceError(
            "rollout.weight_sync.kind nccl: the NCCL library could not be loaded on the policy's node, or "
            "VLLM_DISABLE_PYNCCL is set; install the CUDA build of torch, or use object_store"
        )
    return sender


def open_ipc_sender(rank: int, bucket_bytes: int, engines: Any, source: WeightSource) -> WeightSender:
    """The sending end on rank `rank` of the policy, whose GPU an engine shares; rank 0 calls `engines`.

    `engines` has the methods `init_weight_transfer_engine`, `start_weight_update`, `update_weights` and
    `finish_weight_update`, which call every engine and wait.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine

    info = IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=bucket_bytes)
    return IPCTrainerWeightTransferEngine.trainer_init(info, client=engines, source=source)


def _completion(output: Any) -> Completion:
    token_ids = tuple(output.token_ids)
    logprobs = tuple(entry[token].logprob for token, entry in zip(token_ids, output.logprobs, strict=True))
    return Completion(token_ids, logprobs, output.finish_reason == "stop")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
