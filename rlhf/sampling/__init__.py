"""The sampler: a vLLM engine that generates rollouts and takes new weights."""
