"""Fields of OpenAI's and vLLM's requests that are not built: refused by name, with what to do instead.

No field of a request is dropped in silence: it works, it is refused here, or it is unknown and refused as such.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from ptune.errors import RequestError

from ..http.errors import UNKNOWN, UNSUPPORTED
from .message import Body

Harmless = Mapping[str, tuple[Any, ...]]
"""Fields that are refused, each with the values that have no effect and are accepted."""

ANYWHERE: Harmless = {
    "cache_salt": (),
    "ec_transfer_params": ({},),
    "kv_transfer_params": ({},),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "request_id": (),
    "session_id": (),
    "vllm_xargs": ({},),
}
"""vLLM's, of every endpoint."""

NOT_BUILT: Harmless = {
    **ANYWHERE,
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "max_repetition_pattern_size": (0,),
    "media_io_kwargs": ({},),
    "metadata": ({},),
    "min_repetition_pattern_size": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": ({},),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "prompt_embeds": (),
    "repetition_detection": (),
    "repetition_min_count": (0,),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "return_tokens_as_token_ids": (False,),
    "routed_experts_prompt_start": (0,),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "store": (False,),
    "stream_interval": (1,),
    "suffix": ("",),
    "thinking_token_budget": (-1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "watermarking": (False,),
    "web_search_options": (),
}
"""Of chats and completions."""

THINKING: Harmless = {
    "enable_thinking": (),
    "reasoning": ({},),
    "reasoning_budget": (-1,),
    "reasoning_format": ("auto", "deepseek"),
    "separate_reasoning": (True,),
    "stream_reasoning": (True,),
    "thinking": ({},),
    "thinking_budget": (-1,),
    "thinking_budget_tokens": (-1,),
}
"""Of chats: how other servers name what is asked for by vLLM's names here."""

INSTEAD = {
    "add_special_tokens": "the chat template writes them; for others send the text to /v1/completions",
    "cache_salt": "leave it out; prefixes are shared within one server",
    "background": "send stream: true",
    "chat_template": "each adapter has its own; set task.template when it is trained",
    "context": "send the messages to /api/chat",
    "conversation": "send previous_response_id",
    "documents": "put them into a message",
    "echo": "put the text before the answer yourself",
    "enable_thinking": "send it in chat_template_kwargs",
    "function_call": "send tool_choice",
    "functions": "send tools",
    "guided_decoding_backend": "leave it out; there is one",
    "include_reasoning": "leave it out; a completion holds all that the model writes",
    "images": "put them into a message",
    "include_stop_str_in_output": "add the text to the answer yourself",
    "logits_processors": "send logit_bias, bad_words or allowed_token_ids",
    "logprob_token_ids": "send logprobs with more alternatives",
    "metadata": "nothing is stored here; keep it on your side",
    "max_tool_calls": "send parallel_tool_calls: false for one call",
    "prediction": "leave it out; the server speculates by itself",
    "prompt": "nothing is stored here; send instructions",
    "prompt_cache_options": "leave it out; prefixes are reused by themselves",
    "prompt_cache_retention": "leave it out; prefixes are reused by themselves",
    "raw": "send the prompt to /v1/completions",
    "reasoning": "send reasoning_effort, or a variable of the template in chat_template_kwargs",
    "reasoning_budget": "send thinking_token_budget",
    "reasoning_format": "leave it out; it comes as reasoning_content",
    "request_id": "send the header x-request-id",
    "return_tokens_as_token_ids": "send return_token_ids",
    "separate_reasoning": "leave it out; it comes as reasoning_content",
    "service_tier": "send auto or default",
    "skip_special_tokens": "send return_token_ids, and the ids to /detokenize",
    "spaces_between_special_tokens": "send return_token_ids, and the ids to /detokenize",
    "store": "nothing is stored here; send false",
    "stream_reasoning": "send include_reasoning: false to leave it out",
    "template": "each adapter has its own; set task.template when it is trained",
    "thinking": "send a variable of the template in chat_template_kwargs",
    "thinking_budget": "send thinking_token_budget",
    "thinking_budget_tokens": "send thinking_token_budget",
    "thinking_token_budget": "send max_tokens, or the question to /v1/chat/completions",
    "top_logprobs": "send the question to /v1/chat/completions",
    "truncation": "send fewer items, or disabled",
    "use_beam_search": "send num_beams",
    "verbosity": "say in a message how long the answer should be",
}
"""What to do in place of a field."""


class Request(Body):
    """A whole request body: a field that is refused or unknown is an error, with its name."""

    model_config = ConfigDict(extra="forbid")
    not_built: ClassVar[Harmless] = ANYWHERE

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        """Returns the fields without those that have no effect. Raises: RequestError that names the field."""
        if not isinstance(data, dict):
            return data
        known = cls.model_fields.keys()
        for name in data.keys() - known:
            if name not in cls.not_built:
                raise _unknown(name, {*known, *cls.not_built})
            if data[name] is not None and data[name] not in cls.not_built[name]:
                raise not_built(name)
        return {name: data[name] for name in data.keys() & known}


def not_built(name: str) -> RequestError:
    """The error for a known field that is not built."""
    instead = f"; {INSTEAD[name]}" if name in INSTEAD else ""
    return RequestError(f"{name} is not supported yet{instead}", param=name, code=UNSUPPORTED)


def _unknown(name: str, known: Collection[str]) -> RequestError:
    shown = name[:40]
    near = difflib.get_close_matches(shown, known, 1)
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    return RequestError(f"{shown}: there is no such field; {hint}", param=shown, code=UNKNOWN)
