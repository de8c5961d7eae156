"""The model card of an adapter that was combined from others: what it was made of, and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def card(record: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> str:
    """Markdown with the YAML header that model hubs read. record: combined.json; config: a part's adapter_config.json."""
    header = {
        "base_model": config.get("base_model_name_or_path"),
        "library_name": "peft",
        "tags": ["ptune", "merge"],
    }
    density = "" if record["density"] is None else f", density {record['density']:g}"
    seed = f", seed {record['seed']}" if str(record["how"]).startswith("dare") else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
            "---",
            f"# {name}",
            "",
            f"Combined from {len(record['parts'])} LoRA adapters by `{record['how']}`{density}{seed}, with peft's"
            " `add_weighted_adapter`.",
            "",
            "| part | weight | SHA-256 of its weights | base |",
            "|---|---|---|---|",
            *[
                f"| {part['name']} | {weight:g} | `{part['sha256']}` | {part['base']}{_hash(part)} |"
                for part, weight in zip(record["parts"], record["weights"], strict=True)
            ],
            "",
            f"Its update is {record['off_the_weighted_sum']:.1%} off the weighted sum of its parts' (relative Frobenius norm).",
            *[f"\n{note}." for note in record["notes"]],
            *_figures(record["held_out"]),
            "",
        ]
    )


def _hash(part: Mapping[str, Any]) -> str:
    return f", `{part['base_sha256'][:12]}`" if part["base_sha256"] else ""


def _figures(held_out: list[Mapping[str, Any]]) -> list[str]:
    """Loss on what each part's run held out."""
    if not held_out:
        return []
    return [
        "",
        "## Loss a token on what each part held out",
        "",
        "| part | examples | base | its own adapter | combined |",
        "|---|---|---|---|---|",
        *[
            f"| {one['part']} | {one['examples']} ({one['split']}) | {one['base']['loss']:.3f} | {one['own']['loss']:.3f}"
            f" | {one['combined']['loss']:.3f} |"
            for one in held_out
        ],
    ]
