"""Matches an adapter's patterns once in a subprocess with a time limit, as a regular expression can take for ever.

python -m ptune_serve.adapters.trial BUNDLE FOLDER
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ptune.child import module_command
from ptune.errors import PtuneError, RequestError
from ptune.formats.whole_write import read_json

LIMIT_S = 30
_PLAIN = re.compile(r"[\w.\\^$-]*")  # without repetition or choice: as fast as comparing text


def try_out(bundle: Path, folder: Path) -> None:
    """Matches an adapter's patterns against the layers of a bundle. Other faults of the adapter are reported later.

    Raises: RequestError(400) if that takes longer than LIMIT_S; FormatError if its config cannot be read.
    """
    if all(_PLAIN.fullmatch(pattern) for pattern in _patterns(read_json(folder / "adapter_config.json"))):
        return
    command = module_command("ptune_serve.adapters.trial", str(bundle), str(folder))
    quiet = subprocess.DEVNULL
    try:
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"adapter_config.json: its patterns took more than {LIMIT_S} s to match; list target_modules by name",
            param="files",
            code="invalid_adapter",
        ) from None


def _patterns(config: dict[str, Any]) -> list[str]:
    """All values that may be regular expressions."""
    values: list[Any] = []
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(key)
        values += value if isinstance(value, list) and key == "layers_pattern" else [value]
    for key in ("rank_pattern", "alpha_pattern"):
        values += config[key] if isinstance(config.get(key), dict) else []
    return [value for value in values if isinstance(value, str)]


def main(bundle: str, folder: str) -> None:
    from ptune.engine.adapters.fold.table import method_of
    from ptune.engine.adapters.lora import load_adapter
    from ptune.engine.adapters.peft_config import parsed
    from ptune.engine.adapters.source import Source
    from ptune.formats.bundle import Bundle

    with contextlib.suppress(PtuneError):  # the server finds the same error, and reports it
        signature, source = Bundle.open(bundle).decoder, Source.folder(Path(folder))
        _, method = method_of(source.config)
        if method is None:
            load_adapter(Path(folder), signature)
            return
        config = parsed(method.config, source)
        for socket in signature.sockets:
            config.targets(socket.name)
            with contextlib.suppress(ZeroDivisionError):  # a rank of 0, which is refused by name
                config.scale(socket.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
