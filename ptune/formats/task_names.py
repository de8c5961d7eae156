"""What adapters, bundles and model cards say that they are for: the model hubs' pipeline tags, and `chat`."""

from __future__ import annotations

CHAT = "chat"
TRANSLATION = "translation"
TEXT_CLASSIFICATION = "text-classification"
TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - of a task
IMAGE_CLASSIFICATION = "image-classification"
FEATURE_EXTRACTION = "feature-extraction"  # a vector for each text
TEXT_RANKING = "text-ranking"

TEXT_GENERATION = "text-generation"  # on model cards, what an adapter calls `chat`
SENTENCE_SIMILARITY = "sentence-similarity"  # on model cards, of vectors
