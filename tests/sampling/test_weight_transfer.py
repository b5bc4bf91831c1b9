"""What both ends of a weight transfer are told, and that vLLM's own types take it."""

from __future__ import annotations

import pytest
import torch

from rlhf.sampling.vllm_engine import open_nccl_sender
from rlhf.sampling.weight_transfer import BUCKET_BYTES, TransferGroup, WeightInfo, bucket_bytes, update_info

WEIGHTS = [
    WeightInfo("model.embed_tokens.weight", torch.bfloat16, (640, 128)),
    WeightInfo("lm_head.weight", torch.bfloat16, (640, 128)),
    WeightInfo("model.norm.weight", torch.float32, (128,)),
]


def test_ranks_follow_one_another_engine_by_engine() -> None:
    group = TransferGroup("10.0.0.1", 29500, (2, 1, 4), BUCKET_BYTES)
    assert group.size == 8
    assert [group.offset(engine) for engine in range(3)] == [1, 3, 4]
    taken = [0, *(group.offset(e) + worker for e, count in enumerate(group.workers) for worker in range(count))]
    assert taken == list(range(group.size))


def test_a_bucket_takes_the_largest_weight() -> None:
    assert bucket_bytes(WEIGHTS) == BUCKET_BYTES
    embedding = WeightInfo("model.embed_tokens.weight", torch.bfloat16, (151936, 3584))
    assert bucket_bytes([*WEIGHTS, embedding]) == 151936 * 3584 * 2
    assert bucket_bytes(WEIGHTS[:1]) == BUCKET_BYTES


def test_the_update_names_every_weight_with_dtype_and_shape() -> None:
    assert update_info(WEIGHTS) == {
        "names": ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"],
        "dtype_names": ["bfloat16", "bfloat16", "float32"],
        "shapes": [[640, 128], [640, 128], [128]],
    }


def test_vllm_takes_what_an_engine_is_told() -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, NCCLWeightTransferUpdateInfo

    told = NCCLWeightTransferInitInfo(**TransferGroup("10.0.0.1", 29500, (1, 2), BUCKET_BYTES).engine_info(1))
    assert (told.master_address, told.master_port, told.rank_offset, told.world_size) == ("10.0.0.1", 29500, 2, 4)
    assert (told.packed, told.packed_buffer_size_bytes) == (True, BUCKET_BYTES)
    assert NCCLWeightTransferUpdateInfo(**update_info(WEIGHTS)).names[1] == "lm_head.weight"


class Weights:
    """A source that counts how often it was gone through."""

    def __init__(self) -> None:
        self.passes = 0

    def metadata(self) -> list[WeightInfo]:
        return [WeightInfo("a", torch.float32, (2, 3))]

    def __iter__(self):
        self.passes += 1
        yield "a", torch.ones(2, 3)


def test_ranks_that_do_not_send_go_through_the_weights_each_time() -> None:
    source = Weights()
    sender = open_nccl_sender(TransferGroup("127.0.0.1", 1, (1,), BUCKET_BYTES), rank=1, source=source)
    sender.send_weights()
    sender.send_weights()
    assert source.passes == 2


def test_vllms_sender_finds_the_declared_order_in_the_weights() -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    source = Weights()
    pairs = list(NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata()))
    assert [name for name, _ in pairs] == ["a"]
    with pytest.raises(ValueError, match="disagrees"):
        list(NCCLTrainerWeightTransferEngine._checked_iter(source, [WeightInfo("b", torch.float32, (2, 3))]))
