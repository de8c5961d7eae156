"""The codec that a chat recipe trains with. Torch-free: the doctor uses it too."""

from __future__ import annotations

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.errors import RecipeError, RequestError


def codec_for(task: Chat, codec: ChatCodec) -> ChatCodec:
    """The backbone's codec with the recipe's own template and system message. Raises: RecipeError, TemplateError."""
    template = None if codec.template is None else codec.template.source
    if task.template is not None:
        try:
            template = task.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"task.template {str(task.template)!r} cannot be read: {error}") from None
    if task.chat_template_kwargs and template is None:
        raise RecipeError(
            "task.chat_template_kwargs: this model has no chat template; name one with --task.template FILE"
        )
    own = ChatCodec(
        codec.tokenizer,
        template,
        codec.special_tokens,
        codec.eos_ids,
        codec.context,
        task.instruction,
        task.request_defaults,
        codec.vision,
    )
    try:
        own.check_variables(task.chat_template_kwargs)
    except RequestError as error:
        raise RecipeError(f"task.{error}") from None
    return own
