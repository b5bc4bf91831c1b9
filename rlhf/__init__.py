"""Reinforcement learning from human feedback, from tokenizer to report, on Ray, vLLM and DeepSpeed."""

import os

__version__ = "0.1.0"

# The libraries under us report their use unless told not to, and transformers asks a service to convert pickled weights
# that it finds on the hub. Here, since they read it when they are imported, in whichever process that is.
NO_TELEMETRY = {
    "DISABLE_SAFETENSORS_CONVERSION": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # it reports being disabled
    "VLLM_DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1",
}
for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)
