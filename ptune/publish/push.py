"""Uploads a run, a bundle, or an export for another engine to a model hub, in one commit, by huggingface_hub.

A run's adapter lies at the repository's top, where peft looks for it, with its card, parity.json and recipe. A bundle and what
`ptune export --gguf` or `--genai` wrote go up as they are, after each of their files was held against its hash, with a card of
their figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from ptune.config.tasks import task_of, tasks_of
from ptune.errors import PtuneError, UsageError
from ptune.formats import genai_export, gguf_export
from ptune.formats.bundle import BASE, Bundle, Hop, hashes
from ptune.formats.hop_cells import figures
from ptune.formats.onnx_adapter import SUFFIX
from ptune.formats.other_export import OtherExport
from ptune.formats.parity_json import FILE as PARITY
from ptune.formats.run import Run
from ptune.formats.task_names import CHAT
from ptune.methods.peft_method import PeftMethod
from ptune.progress import say
from ptune.publish.publishable import FinishedRun
from ptune.verify.parity_place import is_bundle, is_run
from ptune.version import __version__

CARD = "README.md"
_HTTP = ("httpx", "httpx2")  # the library whose errors huggingface_hub lets through, by version
Content = Path | bytes


@dataclass(frozen=True)
class Upload:
    """What goes up: path in the repository -> a file, or its content."""

    files: dict[str, Content]

    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {
            name: len(one) if isinstance(one, bytes) else one.stat().st_size
            for name, one in self.files.items()
        }


def collected(place: Path) -> Upload:
    """What of a run, a bundle, or an export for another engine goes up.

    Raises: UsageError for another folder, or a run that has not finished; FormatError where a file is damaged.
    """
    if is_run(place):
        return _of_run(FinishedRun.open(Run.open(place)))
    if is_bundle(place):
        return _of_bundle(Bundle.open(place))
    if (place / gguf_export.RECORD).is_file():
        return _of_gguf(place)
    if (place / genai_export.RECORD).is_file():
        return _of_genai(place)
    raise UsageError(
        f"{place} is neither a run, a bundle nor an export for another engine: there is no run.json, manifest.json,"
        f" {gguf_export.RECORD} or {genai_export.RECORD}"
    )


def push(upload: Upload, repository: str, *, public: bool, endpoint: str | None, message: str) -> str:
    """Makes the repository where there is none, and commits the files. Returns the commit's address.

    Raises: PtuneError of one sentence where the hub refuses, or cannot be reached.
    """
    api = HfApi(endpoint=endpoint, library_name="ptune", library_version=__version__)
    operations = [
        CommitOperationAdd(name, one if isinstance(one, bytes) else str(one))
        for name, one in upload.files.items()
    ]
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.create_commit(repository, operations, commit_message=message)
    except HFValidationError:
        raise UsageError(f"{repository!r} is no repository's name: write OWNER/NAME") from None
    except OfflineModeIsEnabled:
        raise PtuneError(
            "HF_HUB_OFFLINE is set, and a hub is not on this machine: unset it to push"
        ) from None
    except HfHubHTTPError as error:
        raise PtuneError(_refusal(api, repository, error)) from None
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.split(".")[0] in _HTTP):
            raise
        raise PtuneError(f"{api.endpoint} cannot be reached: {error}") from None
    return str(commit.commit_url)


def _refusal(api: HfApi, repository: str, error: HfHubHTTPError) -> str:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return f"{api.endpoint} does not let you write to {repository}: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    reason = (error.server_message or str(error)).strip().splitlines()[0]
    return f"{api.endpoint} refuses {repository}: {reason}"


def _of_run(run: FinishedRun) -> Upload:
    place = run.files
    folder = place.adapter_path if place.has_adapter else place.model_path
    files: dict[str, Content] = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    method = run.recipe.method
    chat = task_of(run.recipe.task).kind == "decoder" and isinstance(method, PeftMethod) and method.plain
    if place.has_adapter and chat and PARITY not in files:
        say(
            f"{PARITY} is missing: `ptune export {place.folder}` writes it, and anybody may then hold a server to it"
        )
    card = place.card_path.read_text(encoding="utf-8")
    files[CARD] = card.replace("`adapter/parity.json`", f"`{PARITY}`").encode()
    for path in (place.recipe_path, place.evaluation_path):
        if path.is_file():
            files[path.name] = path
    return Upload(files)


def _of_bundle(bundle: Bundle) -> Upload:
    manifest = bundle.manifest
    known = {**manifest.codec, **manifest.golden, **manifest.vision}
    for graph in manifest.graphs.values():
        known |= graph.files
    records = {name: bundle.adapter(name) for name in manifest.adapters}
    for name, record in records.items():
        known |= {f"adapters/{name}/{file}": sha for file, sha in record.files.items()}
    bundle.check_files(known)
    files: dict[str, Content] = {name: bundle.folder / name for name in known}
    files["manifest.json"] = bundle.folder / "manifest.json"
    files |= {f"adapters/{name}/adapter.json": bundle.adapter_path(name) / "adapter.json" for name in records}
    served = next((record.task for record in records.values()), None)
    hops = {BASE: manifest.hops, **{name: record.hops for name, record in records.items()}}
    header: dict[str, Any] = {
        "base_model": manifest.base.source,
        "license": manifest.base.licence,
        "library_name": "ptune",
        "tags": ["ptune", "onnx", "lora"],
    }
    if served is not None or manifest.task == CHAT:
        header["pipeline_tag"] = tasks_of(served or CHAT)[0].hub
    text = [
        f"A bundle of `{manifest.base.source}` with {', '.join(f'`{name}`' for name in records) or 'no adapter'}, made and",
        "proved by ptune. Serve it with `ptune serve FOLDER`; `ptune verify FOLDER` measures every hop again.",
    ]
    files[CARD] = _card(header, bundle.folder.name, text, hops)
    return Upload(files)


def _of_gguf(folder: Path) -> Upload:
    record = gguf_export.read_export(folder)
    text = [
        f"`{record.base.source}` as GGUF ({record.type}), proved in llama.cpp by ptune: `{gguf_export.RECORD}` has every hop.",
        f"`ollama create {folder.name} -f Modelfile` makes an Ollama model of it.",
    ]
    return _of_other(folder, gguf_export.RECORD, record, "gguf", ["gguf", "llama.cpp"], text)


def _of_genai(folder: Path) -> Upload:
    record = genai_export.read_export(folder)
    adapters = ", ".join(f"`{name}`" for name in record.files if name.endswith(SUFFIX))
    text = [
        f"`{record.base.source}` for onnxruntime-genai, proved there by ptune: `{genai_export.RECORD}` has every hop.",
        f"`onnxruntime_genai.Model` opens the folder; its adapter: {adapters or 'none'}.",
    ]
    tags = ["onnx", "onnxruntime-genai"]
    return _of_other(folder, genai_export.RECORD, record, "onnxruntime-genai", tags, text)


def _of_other(
    folder: Path, written: str, record: OtherExport, library: str, tags: Sequence[str], text: list[str]
) -> Upload:
    files: dict[str, Content] = {name: folder / name for name in (*record.files, written)}
    header = {
        "base_model": record.base.source,
        "license": record.base.licence,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["ptune", *tags],
    }
    files[CARD] = _card(header, folder.name, text, {"": record.hops})
    return Upload(files)


def _card(header: dict[str, Any], title: str, text: list[str], hops: Mapping[str, Sequence[Hop]]) -> bytes:
    rows = [
        f"| {name} | {hop.name} | {' | '.join(figures(hop)[:3])} | {hop.limit} |"
        for name, measured in hops.items()
        for hop in measured
    ]
    table = ["| | hop | max abs Δ log p | mean KL | top-1 | limit |", "|---|---|---|---|---|---|", *rows]
    lines = [
        "---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(), "---",
        f"# {title}", "", *text, "", "## Parity, hop by hop", "", *table, "",
    ]  # fmt: skip
    return "\n".join(lines).encode()


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in hashes(folder)]
