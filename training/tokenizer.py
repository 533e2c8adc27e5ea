"""The byte-level BPE tokenizer and its chat template."""

from collections.abc import Iterable, Sequence
from typing import cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.chat import Message

VOCAB_SIZE = 3072  # a multiple of 64; most words of the tales are one token, and the embedding stays small
CONTEXT_TOKENS = 1024
END = "</s>"  # begins and ends every document, as in OPT
PAD = "<pad>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
# In this order <pad> is 1 and </s> is 2, where OPT's own vocabulary has them.
SPECIAL_TOKENS = [ROLES["system"], PAD, END, ROLES["user"], ROLES["assistant"]]

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message.role) }}"
    "{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content | trim }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render_conversation(messages: Sequence[Message]) -> str:
    """What the chat template renders, less the outer ``</s>`` of either end, which the corpus puts there."""
    turns = (
        ROLES[m["role"]] + m["content"].strip() + (END if m["role"] == "assistant" else "") for m in messages
    )
    return "".join(turns).removesuffix(END)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learns VOCAB_SIZE tokens. All 256 bytes are among them, so any Unicode text comes back unchanged."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, cast(int, core.token_to_id(END)))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES.values()),
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
