"""What a translation recipe may say. Torch-free."""

from __future__ import annotations

from pydantic import Field, model_validator

from ptune.config.chat import Chat

DESCRIBED = ("source", "target", "source_language", "target_language")
"""What an adapter says of itself, beside its prompt."""


class Translation(Chat):
    """Supervised fine-tuning on pairs of texts: the loss is on the target only.

    Of a causal model a pair is a conversation: `system` is the instruction, the source is asked, the target answers. So the
    prompt travels with the adapter as chat's does. Nothing here but `template` and `train_on` is of causal models alone.
    """

    source: str = "source"
    """The column with the texts to translate; of TMX the language's code, as in en."""
    target: str = "target"
    """The column with their translations."""
    source_language: str | None = None
    """Its code (ISO 639-1, as in en): for the instruction, for the doctor, and for who asks what an adapter does."""
    target_language: str | None = None
    """Its code, as in es."""
    max_length: int = Field(default=512, ge=8)
    """Longest example, in tokens: instruction, source and target together."""

    @model_validator(mode="after")
    def _two_columns(self) -> Translation:
        if self.source.casefold() == self.target.casefold():
            raise ValueError(f"source and target are the same column, {self.source!r}")
        return self

    @property
    def instruction(self) -> str:
        """What the model is told to do with a source: `system`, else a sentence with the languages where they are known."""
        if self.system is not None:
            return self.system
        of = f" from {language(self.source_language)}" if self.source_language else ""
        into = f" into {language(self.target_language)}" if self.target_language else ""
        return f"Translate{of}{into}."


# English names of codes; a code that is not here is written as it is.
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
    """A code's English name, as in German for de; "the text" where none is known."""
    return "the text" if not code else _NAMES.get(code.casefold(), code)
