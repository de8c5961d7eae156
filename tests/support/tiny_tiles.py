"""Tiny random models that cut images into tiles by their shape, with their processors: no download.

from support.tiny_tiles import TILED
folder = TILED["idefics3"](tmp_path / "idefics3")      # as support.tiny_vision.build
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from support.tiny_models import FAMILIES, LICENCE_CARD
from support.tiny_tokenizers import VOCAB, tokenizer
from support.tiny_vision import IMAGE, TEMPLATE

EDGE, PATCH = 28, 7  # of a tile
PAD = "<|image_pad|>"  # Qwen's token for images
_TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": EDGE,
    "patch_size": PATCH,
}  # fmt: skip
_EXTRA = 32  # rows of the embedding for further tokens


def idefics3(folder: Path, *, longest: int = 4 * EDGE, cut: bool = True, kind: str = "Idefics3") -> Path:
    """Idefics 3: tiles by row and column, the whole image behind them. 4 rows a tile."""
    grids = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    words = _words(
        "<|im_start|>",
        "<|im_end|>",
        IMAGE,
        "<fake_token_around_image>",
        "<end_of_utterance>",
        "<global-img>",
        *grids[:12],
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config=_text("llama"),
        vision_config=_TOWER,
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids(IMAGE),
    )
    images = transformers.Idefics3ImageProcessor(
        size={"longest_edge": longest}, max_image_size={"longest_edge": EDGE}, do_image_splitting=cut
    )
    model = _random(getattr(transformers, f"{kind}ForConditionalGeneration"), config)
    _loud(model.model.connector)
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=TEMPLATE)
    return _saved(folder, model, processor)


def smolvlm(folder: Path) -> Path:
    """SmolVLM, with Idefics 3's processor, which shows and cuts images as its own: that one wants a further package."""
    return idefics3(folder, kind="SmolVLM")


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: fitted into one of five resolutions, a row behind every line, rows of what was filled up left out."""
    words = _words("<|im_start|>", "<|im_end|>", IMAGE)
    resolutions = [
        [EDGE, 2 * EDGE],
        [2 * EDGE, EDGE],
        [2 * EDGE, 2 * EDGE],
        [3 * EDGE, EDGE],
        [EDGE, 3 * EDGE],
    ]
    config = transformers.LlavaNextConfig(
        text_config=_text("llama"), vision_config={**_TOWER, "model_type": "clip_vision_model", "projection_dim": 32},
        image_grid_pinpoints=resolutions, image_token_index=words.convert_tokens_to_ids(IMAGE),
    )  # fmt: skip
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": EDGE},
        crop_size={"height": EDGE, "width": EDGE},
        image_grid_pinpoints=resolutions,
    )
    model = _random(transformers.LlavaNextForConditionalGeneration, config)
    _loud(model.model.multi_modal_projector)
    processor = transformers.LlavaNextProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", image_token=IMAGE,
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    return _saved(folder, model, processor)


def internvl(folder: Path) -> Path:
    """InternVL: squeezed into a grid of its own shape, the whole image behind its tiles. 4 rows a tile."""
    words = _words("<|im_start|>", "<|im_end|>", IMAGE, "<img>", "</img>", "<video>")
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": IMAGE,
        "video_token": "<video>",
    }
    words = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, **words.special_tokens_map, extra_special_tokens=named
    )
    words.chat_template = TEMPLATE
    config = transformers.InternVLConfig(
        text_config=_text("qwen2"), vision_config={**_TOWER, "image_size": [EDGE, EDGE], "patch_size": [PATCH, PATCH]},
        image_token_id=words.convert_tokens_to_ids(IMAGE), downsample_ratio=0.5, image_seq_length=4,
    )  # fmt: skip
    images = transformers.GotOcr2ImageProcessor(
        size={"height": EDGE, "width": EDGE}, min_patches=1, max_patches=6, crop_to_patches=True
    )
    model = _random(transformers.InternVLForConditionalGeneration, config)
    _loud(model.model.multi_modal_projector)
    processor = transformers.InternVLProcessor(
        images, words, transformers.InternVLVideoProcessor(), image_seq_length=4, chat_template=TEMPLATE
    )
    return _saved(folder, model, processor)


def qwen2_vl(folder: Path, *, most: int = 40) -> Path:
    """Qwen2-VL: a row for each tile, with positions in three dimensions. most: tiles of an image."""
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}}
    config = transformers.Qwen2VLConfig(
        text_config={**_text_of_qwen(), **text},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": PATCH, "mlp_ratio": 2,
        },
    )  # fmt: skip
    return _qwen(folder, transformers.Qwen2VLForConditionalGeneration, config, most)


def qwen2_5_vl(folder: Path, *, most: int = 40) -> Path:
    """Qwen2.5-VL: as Qwen2-VL, and the first of its tower's layers attends within windows of two by two tiles."""
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_text_of_qwen(), **text},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": PATCH,
            "window_size": 4 * PATCH, "out_hidden_size": 64, "fullatt_block_indexes": [1],
        },
    )  # fmt: skip
    return _qwen(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, most)


def _text_of_qwen() -> dict[str, Any]:
    made = _text("qwen2")
    return {
        key: value
        for key, value in made.items()
        if key not in ("model_type", "architectures", "rope_parameters")
    }


def _qwen(folder: Path, kind: Any, config: Any, most: int) -> Path:
    template = TEMPLATE.replace(IMAGE, f"<|vision_start|>{PAD}<|vision_end|>")
    words = _words("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", PAD, "<|video_pad|>")
    words.chat_template = template
    named = {
        "image_token_id": PAD,
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
    }
    for field, token in named.items():
        setattr(config, field, words.convert_tokens_to_ids(token))
    tile = (2 * PATCH) ** 2
    pixels = {"min_pixels": 4 * tile, "max_pixels": most * tile}
    images = transformers.Qwen2VLImageProcessor(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, **pixels
    )
    model = _random(kind, config)
    _loud(model.model.visual.merger)
    processor = transformers.Qwen2VLProcessor(
        images, words, transformers.Qwen2VLVideoProcessor(patch_size=PATCH), chat_template=template
    )
    return _saved(folder, model, processor)


TILED: dict[str, Callable[[Path], Path]] = {
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "llava_next": llava_next,
    "internvl": internvl,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
}


def with_pillow(folder: Path) -> Any:
    """The model's processor, with transformers' own image processor on Pillow: torchvision's rounds a resize otherwise."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.image_processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor


def _words(*special: str) -> PreTrainedTokenizerFast:
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": [*special]})
    words.chat_template = TEMPLATE
    return words


def _text(family: str) -> dict[str, Any]:
    made: dict[str, Any] = FAMILIES[family](vocab_size=VOCAB + _EXTRA).to_dict()
    return made


def _random(kind: Any, config: Any) -> Any:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = kind(config).float().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.shape[0] <= 64:
            module.weight.data *= 3
    torch.set_rng_state(state)
    return model


def _loud(projector: nn.Module) -> None:
    """Features as large as embeddings, so that they matter."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    for weight in projector.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, 0, 0.5)
    torch.set_rng_state(state)


def _saved(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(LICENCE_CARD, encoding="utf-8")
    return folder
