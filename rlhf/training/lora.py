"""Low-rank adapters (LoRA, arXiv:2106.09685) in a policy: put in by peft, merged wherever whole weights are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import ConfigError
from rlhf.ppo.config import LoraConfig

ADAPTER = "default"
_PARTS = (f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}.")
_BASE = ".base_layer."


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """Give the chosen linear layers of `model` adapters that change nothing yet, and freeze everything else.

    Every rank must call it with the same seed. Raises ConfigError when no layer has a name that the config asks for.
    """
    from peft import inject_adapter_in_model

    output = model.get_output_embeddings()
    for layer in config.layers or ():
        found = [module for name, module in model.named_modules() if name.split(".")[-1] == layer]
        if not found or any(module is output or not isinstance(module, nn.Linear) for module in found):
            linear = {name.split(".")[-1] for name, each in model.named_modules() if type(each) is nn.Linear}
            known = ", ".join(sorted(linear - {"lm_head"}))
            raise ConfigError(f"policy.lora.layers: '{layer}' is no linear layer below the output; known: {known}")
    torch.manual_seed(seed)
    try:
        inject_adapter_in_model(peft_config(config), model, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(f"policy.lora.layers: {str(error).splitlines()[0]}") from None


def peft_config(config: LoraConfig) -> Any:
    """The same choice in peft's own terms."""
    import peft

    return peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules="all-linear" if config.layers is None else list(config.layers),
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return any(part in name for part in _PARTS)


def plain_name(name: str) -> str:
    """The name of a weight in the model without adapters."""
    return name.replace(_BASE, ".")


def adapted_layer(module: nn.Module, name: str) -> Any | None:
    """peft's layer whose adapters change the weight `name` of `module`; None for a weight that they leave alone."""
    layer, found, kind = name.rpartition(_BASE)
    return module.get_submodule(layer) if found and kind == "weight" else None


@torch.no_grad()
def merged(layer: Any) -> Tensor:
    """W + (α / r) B A in W's dtype; every parameter of the layer must be whole."""
    weight = layer.get_base_layer().weight
    return (weight.float() + layer.get_delta_weight(ADAPTER).float()).to(weight.dtype)


def save_adapters(weights: dict[str, Tensor], config: LoraConfig, base: str, directory: Path) -> None:
    """Write the adapters alone as peft reads them; `weights` by their names in the transformers model."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in weights.items()}
    save_file(tensors, str(directory / "adapter_model.safetensors"), metadata={"format": "pt"})
    described = peft_config(config)
    described.base_model_name_or_path = base
    described.inference_mode = True
    described.save_pretrained(str(directory))
