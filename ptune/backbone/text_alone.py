"""Models that read images beside text, and whose text model transformers loads by itself from the same files: Qwen3.5.

transformers' causal language model for such a config is the text model's class. Where ptune cannot do what the whole model does
with images, it takes the text model's config, and everything else is as with a model that was published alone.
"""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from ptune.backbone.vision_language import sees_images, why_blind


def text_alone(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the text model, where only that is supported and it can be loaded by itself; any other config as it is."""
    if sees_images(config) and why_blind(config) is None:
        return config
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or "text_config" not in config.sub_configs:
        return config
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    return config.get_text_config() if kind.config_class is config.sub_configs["text_config"] else config
