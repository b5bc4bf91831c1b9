"""The ChatML template and the special tokens that it is made of.

A rendered conversation ends with the end token of its last turn, and the line break stands before a turn,
not after it: what a reward model sees last in training is then what a policy emits last. The marks
`{% generation %}` tell which characters the assistant wrote, end token included, so that a loss can be
taken on those alone.
"""

from __future__ import annotations

END_OF_TEXT = "<|endoftext|>"  # separates documents, and pads
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"  # end of sequence for generation
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)
