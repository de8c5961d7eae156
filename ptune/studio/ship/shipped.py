"""What of a run can leave the workspace: commands that make it, profiles with size and speed, files to download."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ptune.codecs.seq2seq import FILE as SEQ2SEQ_CODEC
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.errors import FormatError, PtuneError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.gguf_export import ADAPTER_FILE, MODELFILE, RECORD
from ptune.formats.run import Run
from ptune.formats.signature import Signature
from ptune.formats.whole_write import read_json
from ptune.studio.sheet import Cell, Content, sheet, size
from ptune.studio.ship.downloads import Kind, gguf_folder, link, own_files, place
from ptune.studio.ship.proof import hop_log_of
from ptune.studio.workspace import Workspace

GGUF_FILES = (".gguf", MODELFILE)


@dataclass(frozen=True)
class Export:
    """What is asked of an export."""

    profiles: tuple[str, ...] = ("fp32",)
    int8_cache: bool = False
    merge: bool = False
    anyway: bool = False
    gguf: bool = False
    gguf_type: str = "auto"


def export_command(workspace: Workspace, run: str, asked: Export) -> tuple[str, ...]:
    """The command that exports a run; what was exported before is replaced once the new one is proved. Raises: UsageError."""
    out = gguf_folder(workspace, run) if asked.gguf else workspace.bundle(run)
    words = ["ptune", "export", workspace.shown(workspace.run(run)), "--out", workspace.shown(out)]
    if asked.gguf:
        words += ["--gguf", *(("--gguf-type", asked.gguf_type) if asked.gguf_type != "auto" else ())]
    else:
        if not asked.profiles:
            raise UsageError("no profile is chosen: take fp32, or auto for the fastest on this machine")
        if asked.profiles != ("fp32",):
            words += ["--profiles", ",".join(asked.profiles)]
        words += ["--kv-cache-dtype", "int8"] if asked.int8_cache else []
    words += ["--merge"] if asked.merge else []
    words += ["--anyway"] if asked.anyway else []
    words += ["--force"] if out.exists() else []
    log = hop_log_of(workspace.own, run, gguf=asked.gguf)
    return (*words, "--hop-log", workspace.shown(log))


def speed_file(workspace: Workspace, name: str) -> Path:
    """Where `ptune speed` writes what it measured of a bundle. Raises: UsageError."""
    return workspace.own / "speed" / f"{workspace.bundle(name).name}.json"


def speed_command(workspace: Workspace, name: str) -> tuple[str, ...]:
    """The command that measures a bundle's profiles. Raises: UsageError."""
    out = workspace.shown(speed_file(workspace, name))
    return ("ptune", "speed", workspace.shown(workspace.bundle(name)), "--out", out)


def add_command(workspace: Workspace, bundle: str, run: str, name: str) -> tuple[str, ...]:
    """The command that adds a run's adapter to a bundle, proved. Raises: UsageError."""
    into, what = (workspace.shown(one) for one in (workspace.bundle(bundle), workspace.run(run)))
    return ("ptune", "add", into, what, "--name", name.strip() or run)


def push_command(
    workspace: Workspace, kind: str, name: str, repository: str, *, public: bool, dry_run: bool
) -> tuple[str, ...]:
    """The command that uploads to a model hub. Raises: UsageError."""
    owner, slash, own = repository.strip().partition("/")
    if not (owner and slash and own) or "/" in own or repository.strip().startswith("-"):
        raise UsageError(f"{repository!r} is no repository's name: write OWNER/NAME")
    folder = place(workspace, kind, name)
    folder = folder.parent if kind == "adapter" else folder  # a run goes up with its card
    words = ["ptune", "push", workspace.shown(folder), repository.strip()]
    return (*words, *(["--public"] if public else []), *(["--dry-run"] if dry_run else []))


def profiles(workspace: Workspace, name: str) -> str:
    """A bundle's profiles with their size and, once measured, their speed, as HTML; empty if there is no bundle.

    Raises: FormatError if it is damaged.
    """
    folder = workspace.bundle(name)
    if not (folder / "manifest.json").is_file():
        return ""
    bundle, measured = Bundle.open(folder), _measured(workspace, name)
    caches = isinstance(bundle.manifest.signature, Signature)  # of a decoder; others keep none
    rows: list[tuple[Content, ...]] = []
    for profile, graph in bundle.manifest.graphs.items():
        served = "served by default" if profile == bundle.manifest.default_profile else ""
        speed = measured.get(profile)
        told = f"{speed['per_s']:.1f} {speed['unit']}/s" if speed else "–"
        row: list[Content] = [Cell(profile, served), size(bundle.graph_bytes(profile)), told]
        rows.append((*row, *([", ".join(graph.kv_caches) or "float32 only"] if caches else [])))
    heads = ("profile", "size", "speed here", *(["caches"] if caches else []))
    return sheet(f"Profiles of bundles/{name}", heads, rows, words=(0, 3))


def _measured(workspace: Workspace, name: str) -> dict[str, Any]:
    """What was measured of this very bundle; nothing where it was exported again since."""
    path, manifest = speed_file(workspace, name), workspace.bundle(name) / "manifest.json"
    try:
        if path.stat().st_mtime < manifest.stat().st_mtime:
            return {}
        found = read_json(path)["profiles"]
    except (OSError, FormatError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def downloads(workspace: Workspace, name: str) -> str:
    """Links to what can be downloaded of a run, with sizes, as HTML."""
    lines = [line for kind in ("adapter", "bundle", "gguf") for line in _links(workspace, kind, name)]
    return f'<ul class="downloads">{"".join(lines)}</ul>' if lines else ""


def _links(workspace: Workspace, kind: Kind, name: str) -> list[str]:
    try:
        files = own_files(place(workspace, kind, name))
    except PtuneError:
        return []
    if kind == "gguf":
        return [
            _link(f"{link(kind, name)}/{inside}", inside, path.stat().st_size)
            for inside, path in files
            if inside.endswith(GGUF_FILES) or inside in (ADAPTER_FILE, RECORD)
        ]
    whole = sum(path.stat().st_size for _, path in files)
    told = {"adapter": "Adapter in PEFT's format (zip)", "bundle": "ONNX bundle (zip)"}[kind]
    return [_link(link(kind, name), told, whole)]


def _link(address: str, told: str, count: int) -> str:
    return f'<li><a href="{escape(address)}" download>{escape(told)}</a> <span class="quiet">{size(count)}</span></li>'


def places(workspace: Workspace, name: str) -> tuple[str, ...]:
    """The kinds of things there are of a name: adapter, bundle, gguf."""
    found = []
    for kind in ("adapter", "bundle", "gguf"):
        try:
            place(workspace, kind, name)
        except PtuneError:
            continue
        found.append(kind)
    return tuple(found)


def profiles_for(workspace: Workspace, run: str) -> tuple[str, ...]:
    """The profiles that a run's kind of model can be exported in; `auto` is the fastest here of those that hold their gate.

    Raises: FormatError, RecipeError where the run is damaged.
    """
    files = Run(workspace.run(run))
    if (files.codec_path / SEQ2SEQ_CODEC).is_file():
        return ("fp32",)
    recipe = Recipe.load(files.recipe_path)
    if not isinstance(recipe.task, Chat):
        return ("fp32", "int8")
    return ("fp32", "int8", "int4", *(("nf4",) if recipe.backbone.quantize == "nf4" else ()), "auto")


def has_gguf(workspace: Workspace, run: str) -> bool:
    """Whether a run is of a chat model, which llama.cpp may hold. Raises: as `profiles_for`."""
    return "auto" in profiles_for(workspace, run)
