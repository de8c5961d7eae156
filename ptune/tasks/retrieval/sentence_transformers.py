"""Writes the files that sentence-transformers (https://www.sbert.net) adds to a transformers folder, without using it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptune.formats.whole_write import write_json
from ptune.tasks.encoder.facts import Facts

POOLING = "1_Pooling"
_MODES = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
_KINDS = "sentence_transformers.models"


def save_modules(facts: Facts, folder: Path) -> None:
    """Adds modules.json and the pooling to a folder with a model and its tokenizer."""
    vector_facts = facts.embedding
    assert vector_facts is not None
    modules = [("", "Transformer"), (POOLING, "Pooling")]
    if vector_facts["normalize"]:
        modules.append(("2_Normalize", "Normalize"))
    listed: list[dict[str, Any]] = [
        {"idx": at, "name": str(at), "path": path, "type": f"{_KINDS}.{kind}"}
        for at, (path, kind) in enumerate(modules)
    ]
    pooling = {
        "word_embedding_dimension": vector_facts["width"],
        **{name: mode == vector_facts["pooling"] for mode, name in _MODES.items()},
    }
    write_json(folder / POOLING / "config.json", pooling)
    for path, _ in modules[2:]:
        (folder / path).mkdir(exist_ok=True)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": facts.max_length, "do_lower_case": False}
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    write_json(folder / "modules.json", listed)
