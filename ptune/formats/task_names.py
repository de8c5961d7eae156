"""The task names in adapters, bundles and model cards: the model hubs' pipeline tags, and `chat`."""

from __future__ import annotations

CHAT = "chat"
TRANSLATION = "translation"
TEXT_CLASSIFICATION = "text-classification"
TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task's name
IMAGE_CLASSIFICATION = "image-classification"
FEATURE_EXTRACTION = "feature-extraction"  # a vector for each text
TEXT_RANKING = "text-ranking"

TEXT_GENERATION = "text-generation"  # model cards only: chat
SENTENCE_SIMILARITY = "sentence-similarity"  # model cards only: embeddings
