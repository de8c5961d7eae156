"""An adapter's folder inside a bundle: PEFT's own files, untouched, and adapter.json beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptune.codecs.adapter_tokens import FILE, extended, new_tokens_of
from ptune.codecs.chat import ChatCodec
from ptune.engine.adapters.fold.fold import LEFT_OUT, ORIGINAL, Limits, as_pairs
from ptune.engine.adapters.fold.layer import Base
from ptune.engine.adapters.lora import Adapter, load_adapter
from ptune.engine.adapters.prefix import stands_before, with_prefix
from ptune.engine.adapters.source import OWN, Source
from ptune.errors import AdapterError, FormatError, TemplateError, UsageError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Folded, Manifest, hashes, parse
from ptune.formats.request_defaults import RequestDefaults
from ptune.formats.whole_write import disk_errors, read_json, sha256_of, whole_folder, write_json

RECORD = "adapter.json"


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


def install(
    bundle: Bundle, adapter: Path, name: str, base: Base | None = None, limits: Limits = Limits()
) -> AdapterRecord:
    """Copies a PEFT folder into the bundle, checked socket by socket, as yet unmeasured; other types than LoRA are folded, or
    get the keys and values of their virtual tokens.

    base, limits: as `ptune.engine.adapters.fold.fold.as_pairs` takes them.

    The folder is written whole and the manifest last: whenever this is interrupted, the bundle has the adapter or not.
    Raises: UsageError for a name that cannot be; AdapterError that lists everything which does not fit.
    """
    check_name(name)
    with _as_served(adapter, bundle, base, limits) as (folder, folded):
        checked = load_adapter(folder, bundle.decoder)
        own, trained_on = prompt_of(adapter, bundle)
        own |= tokens_of(adapter, bundle, checked)
        with whole_folder(bundle.adapter_path(name)) as part:  # replaces leftovers of an interrupted call
            copy_adapter(folder, part, folded)
            record = AdapterRecord(
                name=name,
                files=hashes(part),
                rank=checked.rank,
                virtual_tokens=0 if checked.prefix is None else checked.prefix.tokens,
                in_sums=checked.is_update,
                invocation=checked.invocation,
                folded=folded,
                base=trained_on,
                added=datetime.now(UTC).date().isoformat(),
            ).model_copy(update=own)
            write_json(part / RECORD, record.model_dump(mode="json"))
    _vouch(bundle, record)
    return record


@contextmanager
def _as_served(
    adapter: Path, bundle: Bundle, base: Base | None, limits: Limits
) -> Iterator[tuple[Path, Folded | None]]:
    """Yields a folder as a bundle has it, and what the adapter was if it was folded."""
    if stands_before(Source.folder(adapter)):
        with with_prefix(adapter, bundle.decoder, base) as folder:
            yield folder, None
        return
    sockets = {socket.name: socket for socket in bundle.decoder.sockets}
    with as_pairs(adapter, sockets, base, limits, bundle.decoder.ends) as found:
        yield found


def copy_adapter(folder: Path, place: Path, folded: Folded | None) -> None:
    """Copies an adapter's files into a bundle; what it was folded from only if it was."""
    left_out = (*LEFT_OUT, RECORD, *([ORIGINAL] if folded is None else []))
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)


def adopt(bundle: Bundle, folder: Path, name: str) -> None:
    """Copies an adapter's folder, its record and all, out of a copy of this bundle in which it was proved.

    Interrupted at any moment, the bundle has it whole or not at all. Raises: FormatError where there is no record.
    """
    record = parse(AdapterRecord, read_json(folder / RECORD), folder / RECORD)
    with whole_folder(bundle.adapter_path(name)) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
    _vouch(bundle, record)


def sweep(bundle: Bundle) -> None:
    """Removes leftovers of interrupted calls of `install`. Must not run beside another call."""
    for left in bundle.adapter_path("").glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)


def remove(bundle: Bundle, name: str) -> None:
    """Takes an adapter out of a bundle. Interrupted at any moment, the bundle has it whole or not at all."""
    adapters = {other: digest for other, digest in bundle.manifest.adapters.items() if other != name}
    _forget_golden(bundle, name, bundle.manifest.model_copy(update={"adapters": adapters}))
    shutil.rmtree(bundle.adapter_path(name), ignore_errors=True)


def _forget_golden(bundle: Bundle, name: str, manifest: Manifest) -> None:
    """Writes a manifest without an adapter, and removes its golden vectors: a later adapter of that name must not be compared with them."""
    changed: dict[str, dict[str, Any]] = {}
    for path in sorted(bundle.golden_path.parent.glob("*.json")):
        content = read_json(path)
        kept = [case for case in content.get("cases", ()) if case["adapter"] != name]
        if len(kept) < len(content.get("cases", ())):
            changed[path.relative_to(bundle.folder).as_posix()] = {**content, "cases": kept}
    # While these are rewritten the manifest vouches for none of them: either version may be replayed.
    vouched = {file: digest for file, digest in manifest.golden.items() if file not in changed}
    if manifest != bundle.manifest or changed:
        bundle.write_manifest(manifest.model_copy(update={"golden": vouched}))
    for file, content in changed.items():
        write_json(bundle.folder / file, content)
    if changed:
        vouched |= {file: sha256_of(bundle.folder / file) for file in changed}
        bundle.write_manifest(bundle.manifest.model_copy(update={"golden": vouched}))


def check_name(name: str) -> None:
    """Raises: UsageError for a name that an adapter cannot have."""
    if name == BASE or name != os.path.basename(name) or not name or name.startswith("."):
        raise UsageError(f"--name {name!r}: must be a plain folder name other than {BASE!r}")


def prompt_of(adapter: Path, bundle: Bundle) -> tuple[dict[str, object], str | None]:
    """The prompt that an adapter was trained with, as fields of its record, and the hash of its base if it is known.

    ptune's own training records both; a template that another trainer left beside the adapter is used too.
    Raises: AdapterError where its base is another one, or its template cannot be used.
    """
    own: dict[str, object] = {}
    base = None
    if (adapter / OWN).is_file():
        facts = read_json(adapter / OWN)
        own = {"own_prompt": True, "template": facts.get("template"), "system": facts.get("system")}
        own["defaults"] = parse(RequestDefaults, facts.get("defaults") or {}, adapter / OWN)
        if facts.get("translation"):
            own |= {"task": facts.get("task"), "translation": facts["translation"]}
        base = facts.get("base")
        if base != bundle.manifest.base.hash:
            raise AdapterError(
                f"{adapter} was trained on another base ({str(base)[:12]}, {facts.get('quantize', 'none')}) "
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


def tokens_of(folder: Path, bundle: Bundle, adapter: Adapter) -> dict[str, object]:
    """The tokens that an adapter brings, as fields of its record; none where its bundle has no sockets for them.

    Raises: AdapterError where their texts and their rows do not belong together.
    """
    ends = bundle.decoder.ends
    if ends is None or "tokens" not in ends.kinds:
        return {}
    tokenizer = ChatCodec.open(bundle.codec_path).tokenizer
    vocab = bundle.decoder.vocab_size if adapter.ends is None else adapter.ends.vocab
    try:
        new = new_tokens_of(folder, tokenizer)
        extended(tokenizer, new)
    except FormatError as error:
        raise AdapterError(str(error)) from None
    rowless = [token.text for token in new if token.id >= vocab]
    if rowless:
        raise AdapterError(
            f"{folder}/{FILE} adds tokens for which the adapter has no rows: {', '.join(rowless)}"
        )
    known = {token.id for token in new}
    unnamed = [token for token in range(bundle.decoder.vocab_size, vocab) if token not in known]
    if unnamed:
        raise AdapterError(
            f"{folder} trains new tokens without their texts ({', '.join(map(str, unnamed))}): put the tokenizer.json"
            " that it was trained with beside it"
        )
    return {"new_tokens": new, "vocab_size": vocab if vocab > bundle.decoder.vocab_size else None}


def write_record(bundle: Bundle, adapter: AdapterRecord) -> None:
    """Writes adapter.json, then the manifest that vouches for it."""
    write_json(bundle.adapter_path(adapter.name) / RECORD, adapter.model_dump(mode="json"))
    _vouch(bundle, adapter)


def _vouch(bundle: Bundle, adapter: AdapterRecord) -> None:
    digest = sha256_of(bundle.adapter_path(adapter.name) / RECORD)
    adapters = {**bundle.manifest.adapters, adapter.name: digest}
    bundle.write_manifest(bundle.manifest.model_copy(update={"adapters": adapters}))
