"""The task fields of a translation recipe. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ptune.config.chat import Chat
from ptune.config.columns import TranslationColumns

DESCRIBED = ("source", "target", "source_language", "target_language")
"""What an adapter records of it, besides its prompt."""


class Translation(Chat):
    """Supervised fine-tuning on pairs of texts: the loss is on the target only.

    For a causal model a pair is a conversation: `system` is the instruction, the source is the user's message, the target
    is the answer. The prompt is saved with the adapter, as in chat. Only `template` and `train_on` need a causal model.
    """

    columns: TranslationColumns = TranslationColumns()  # type: ignore[assignment]  # not conversations, as its parent's
    source_language: str | None = None
    """ISO 639-1 code of the source language, e.g. en: used by the instruction and the doctor, and recorded with the adapter."""
    target_language: str | None = None
    """ISO 639-1 code of the target language, e.g. es."""
    max_length: int = Field(default=512, ge=8)
    """Longest example, in tokens: instruction, source and target together."""

    @property
    def source(self) -> str:
        """The column with the texts to translate."""
        return self.columns.source or "source"

    @property
    def target(self) -> str:
        """The column with their translations."""
        return self.columns.target or "target"

    @property
    def described(self) -> dict[str, str | None]:
        """What an adapter records of it."""
        return {name: getattr(self, name) for name in DESCRIBED}

    @classmethod
    def of_description(cls, described: Mapping[str, str | None]) -> Translation:
        """The task of an adapter, from what it records."""
        columns = TranslationColumns(source=described.get("source"), target=described.get("target"))
        return cls(
            columns=columns,
            source_language=described.get("source_language"),
            target_language=described.get("target_language"),
        )

    @property
    def instruction(self) -> str:
        """The instruction to the model: `system`, else a sentence that names the known languages."""
        if self.system is not None:
            return self.system
        of = f" from {language(self.source_language)}" if self.source_language else ""
        into = f" into {language(self.target_language)}" if self.target_language else ""
        return f"Translate{of}{into}."


# English names of language codes; any other code is used as it is.
_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "ga": "Irish", "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian",
    "lv": "Latvian", "nb": "Norwegian", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "ta": "Tamil",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language(code: str | None) -> str:
    """The English name of a language code (German for de); an unknown code as it is, "the text" for None."""
    return "the text" if not code else _NAMES.get(code.casefold(), code)
