"""An adapter's folder inside a bundle: PEFT's own files, untouched, and adapter.json beside them."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from ptune.codecs.chat import ChatCodec
from ptune.engine.adapters import load_adapter
from ptune.errors import AdapterError, TemplateError, UsageError
from ptune.export.write import hashes
from ptune.formats.bundle import BASE, AdapterRecord, Bundle
from ptune.formats.whole_write import disk_errors, read_json, sha256_of, write_json

OWN = "ptune.json"  # beside PEFT's files, written by ptune's training: the base's hash, template and system message
LEFT_OUT = shutil.ignore_patterns("adapter.json", "*.bin", "*.pt", "*.pth", "*.pkl", ".*")


def of_bundle(original: Bundle, stage: Path) -> Bundle:
    """A copy of a bundle at `stage` that shares its files by hard links; every change replaces a file whole."""
    with disk_errors(stage):
        shutil.copytree(original.folder, stage, copy_function=_link, dirs_exist_ok=True)
    return Bundle.open(stage)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def install(bundle: Bundle, adapter: Path, name: str) -> None:
    """Copies a PEFT folder into the bundle, checked socket by socket, as yet unmeasured.

    Raises: UsageError for a name that cannot be; AdapterError that lists everything which does not fit.
    """
    check_name(name)
    checked = load_adapter(adapter, bundle.decoder)
    own, base = prompt_of(adapter, bundle)
    place = bundle.adapter_path(name)
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted call may have left
    with disk_errors(place):
        shutil.copytree(adapter, place, ignore=LEFT_OUT)
    prefix = f"adapters/{name}"
    files = {file.removeprefix(f"{prefix}/"): value for file, value in hashes(bundle.folder, prefix).items()}
    added = datetime.now(UTC).date().isoformat()
    kept = AdapterRecord(name=name, files=files, rank=checked.rank, base=base, added=added).model_copy(
        update=own
    )
    write_record(bundle, kept)


def check_name(name: str) -> None:
    """Raises: UsageError for a name that no adapter can have."""
    if name == BASE or name != os.path.basename(name) or not name or name.startswith("."):
        raise UsageError(f"--name {name!r}: must be a plain folder name other than {BASE!r}")


def prompt_of(adapter: Path, bundle: Bundle) -> tuple[dict[str, object], str | None]:
    """The prompt that an adapter was trained with, as fields of its record, and the hash of its base if it is known.

    ptune's own training says both; a template that another trainer left beside the adapter is taken too.
    Raises: AdapterError where its base is another one, or its template cannot be used.
    """
    own: dict[str, object] = {}
    base = None
    if (adapter / OWN).is_file():
        said = read_json(adapter / OWN)
        own = {"own_prompt": True, "template": said.get("template"), "system": said.get("system")}
        base = said.get("base")
        if base != bundle.manifest.base.hash:
            raise AdapterError(
                f"{adapter} was trained on another base ({str(base)[:12]}, {said.get('quantize', 'none')}) "
                f"than this bundle's ({bundle.manifest.base.hash[:12]}, {bundle.manifest.base.quantize})"
            )
    elif (adapter / "chat_template.jinja").is_file():
        try:
            text = (adapter / "chat_template.jinja").read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise AdapterError(f"{adapter / 'chat_template.jinja'} is not UTF-8: {error}") from None
        own = {"own_prompt": True, "template": text}
    if own.get("template") is not None:
        try:
            ChatCodec.open(bundle.codec_path).with_template(str(own["template"]))
        except TemplateError as error:
            raise AdapterError(f"{adapter}: its chat template cannot be used: {error}") from None
    return own, base


def write_record(bundle: Bundle, adapter: AdapterRecord) -> None:
    """Writes adapter.json, then the manifest that vouches for it."""
    path = bundle.adapter_path(adapter.name) / "adapter.json"
    write_json(path, adapter.model_dump(mode="json"))
    adapters = {**bundle.manifest.adapters, adapter.name: sha256_of(path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"adapters": adapters}))
