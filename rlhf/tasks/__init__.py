"""A small bilingual world of instruction tasks with a checker that knows the right answer.

The checker is independent of any reward model, so the effect of reinforcement learning from a learned
reward can be measured instead of believed.
"""

from rlhf.tasks.checker import correct_answer, gold_score
from rlhf.tasks.world import WorldConfig, write_world

__all__ = ["WorldConfig", "correct_answer", "gold_score", "write_world"]
