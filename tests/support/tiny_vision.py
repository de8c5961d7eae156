"""Tiny random models that see images, with their processors, and conversations about drawn pictures: no download.

from support.tiny_vision import build, seen_conversations, write_rows
folder = build(tmp_path / "llava")      # config.json, model.safetensors, tokenizer, processor, chat template
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from support.tiny_images import picture
from support.tiny_models import FAMILIES, LICENCE_CARD
from support.tiny_tokenizers import VOCAB, tokenizer

IMAGE, SIZE, PATCH = "<image>", 28, 7
ROWS = (SIZE // PATCH) ** 2
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


_TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
    "patch_size": PATCH, "initializer_range": 0.2,
}  # fmt: skip
TOWERS: dict[str, Any] = {  # the tower, and whether it has a token for the whole image
    "clip": (lambda: transformers.CLIPVisionConfig(**_TOWER, projection_dim=32), True),
    "siglip": (lambda: transformers.SiglipVisionConfig(**_TOWER), False),
}


def build(
    folder: Path,
    text: str = "llama",
    tower: str = "clip",
    *,
    seed: int = 0,
    template: str = TEMPLATE,
    **changes: Any,
) -> Path:
    """Writes a LLaVA and returns its folder. text: the decoder's family; tower: one of TOWERS; changes: of LlavaConfig."""
    make_tower, whole = TOWERS[tower]
    strategy = "default" if whole else "full"
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", IMAGE]})
    words.chat_template = template
    config = transformers.LlavaConfig(
        text_config=FAMILIES[text](vocab_size=VOCAB + 8).to_dict(),
        vision_config=make_tower().to_dict(),
        vision_feature_select_strategy=strategy,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        **changes,
    )  # fmt: skip
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():  # features as large as embeddings, so that they matter
        model.model.multi_modal_projector.linear_1.weight.normal_(0, 0.5)
        model.model.multi_modal_projector.linear_2.weight.normal_(0, 0.5)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    transformers.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy=strategy, image_token=IMAGE,
        num_additional_image_tokens=int(whole), chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "README.md").write_text(LICENCE_CARD, encoding="utf-8")
    return folder


def drawn(folder: Path, count: int = 6) -> list[str]:
    """Writes different pictures of different shapes; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for at in range(count):
        name = f"picture{at}.png"
        picture(30 + 9 * at, 60 - 4 * at, seed=at).save(folder / name)
        names.append(name)
    return names


def seen_conversations(folder: Path, count: int = 16) -> list[list[dict[str, Any]]]:
    """Conversations about pictures in `folder`: with one image, with two, and without one."""
    names = drawn(folder)
    rows: list[list[dict[str, Any]]] = []
    for at in range(count):
        images = [{"type": "image", "path": names[(at + more) % len(names)]} for more in range(at % 3)]
        asked = {"type": "text", "text": f"What is number {at}?"}
        rows.append(
            [
                {"role": "user", "content": [*images, asked] if images else asked["text"]},
                {"role": "assistant", "content": f"It is picture {at % len(names)}, I think."},
            ]
        )
    return rows


def write_rows(file: Path, rows: list[list[dict[str, Any]]]) -> Path:
    """Writes conversations as JSONL and returns the file."""
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return file


def picture_of(folder: Path, part: dict[str, Any]) -> Image.Image:
    """The picture that a part names."""
    return Image.open(folder / part["path"]).convert("RGB")


def data_uri(image: Image.Image) -> dict[str, Any]:
    """A picture as a part of a message in OpenAI's shape."""
    written = io.BytesIO()
    image.save(written, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
