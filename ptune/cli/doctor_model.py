"""ptune doctor --model MODEL"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import tyro

from ptune.cli.parse import parse

if TYPE_CHECKING:
    from ptune.planning.model_check import ModelCheck, Verdict

_WIDTH = 19  # of the column of names


def run(arguments: list[str]) -> int:
    return parse(doctor, arguments, "doctor")


def doctor(
    model: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Says what can be done with a pretrained model, from its config and tokenizer: no weight is read.

    Args:
        model: As `backbone.model` takes it: a folder, a GGUF file, an installed package or a hub id.
        revision: Of a model on the hub.
        trust_remote_code: Run Python code that comes with it.
        as_json: Print JSON.
    """
    from ptune.config.recipe import Backbone
    from ptune.planning.model_check import check_model

    found = check_model(Backbone(model=model, revision=revision, trust_remote_code=trust_remote_code))
    print(json.dumps(found.described(), ensure_ascii=False, indent=2) if as_json else shown(found))
    return 0


def shown(found: ModelCheck) -> str:
    """As lines of a name and what there is to say."""
    parameters = "unknown" if found.parameters is None else f"{found.parameters:,}"
    size = f", {_bytes(found.file_bytes)}" if found.file_bytes else ""
    rows = [
        ("model", found.model),
        ("family", f"{found.family} ({found.architecture}), {found.kind}"),
        ("parameters", f"{parameters}; on disk: {found.weights}{size}, {found.dtype}"),
        ("context", _context(found)),
        *((f"train: {name}", _verdict(verdict)) for name, verdict in found.train.items()),
        ("export", _verdict(found.export)),
        *_profiles(found),
        ("chat template", "yes" if found.chat_template else "no: name one with --task.template FILE"),
        ("tool calls", found.tools or "no known format"),
        ("thinking", _thinking(found)),
    ]
    if found.train_bytes:
        held = ", ".join(f"{name} {_bytes(size)}" for name, size in found.train_bytes.items())
        rows.append(("weights: train", f"{held}; `ptune plan` predicts a whole step"))
    if found.serve_bytes:
        held = ", ".join(f"{name} {_bytes(size)}" for name, size in found.serve_bytes.items())
        rows.append(("weights: serve", held))
    if found.cache_bytes_a_token is not None:
        rows.append(("KV cache", f"{found.cache_bytes_a_token / 1024:,.1f} KiB a token"))
    rows += [("not known", problem) for problem in found.problems]
    return "\n".join(f"{name:<{_WIDTH}}{text}" for name, text in rows)


def _profiles(found: ModelCheck) -> list[tuple[str, str]]:
    if not found.export.works:
        return [("profiles", "none"), ("serve", "no: it cannot be exported")]
    profiles = [(f"profile: {name}", _verdict(verdict)) for name, verdict in found.profiles.items()]
    return [*profiles, ("serve", _verdict(found.serve))]


def _bytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def _verdict(verdict: Verdict) -> str:
    if verdict.works:
        return f"yes, {verdict.why}" if verdict.why else "yes"
    return f"no: {verdict.why}"


def _context(found: ModelCheck) -> str:
    tokens = "unknown" if found.context is None else f"{found.context:,} tokens"
    rope = f"rope: {', '.join(found.rope)}" if found.rope else "no rope"
    if found.longest is not None:
        return f"{tokens}, {rope}; up to {found.longest:,} with --backbone.context"
    return f"{tokens}, {rope}" + ("; more with --backbone.context" if "dynamic" in found.rope else "")


def _thinking(found: ModelCheck) -> str:
    if found.thinking is None:
        return "none found"
    switch = "; enable_thinking changes the prompt" if found.thinking.switch else ""
    return f"{found.thinking.begin} … {found.thinking.end}{switch}"
