"""ptune key FILE NAME"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ptune.cli.parse import parse
from ptune.cli.result import tell
from ptune.errors import UsageError

Scope = Literal["infer", "metrics", "admin"]
ALL = ("all",)


def run(arguments: list[str]) -> int:
    return parse(key, arguments, "key")


def key(
    file: Positional[Path],
    name: Positional[str],
    scopes: tuple[Scope, ...] | None = None,
    adapters: tuple[str, ...] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrent: int | None = None,
    remove: bool = False,
) -> int:
    """Makes an API key in a file for --api-key-file, and prints it once; changes what one of this name may do; or takes it out.

    A server that runs reads the file again.

    Args:
        file: The file of keys; made where there is none.
        name: Whose key it is; appears in logs.
        scopes: What it may do: infer, metrics, admin; default: infer.
        adapters: Names and aliases of adapters that it may use, or `all`; default: all.
        requests_per_minute: Limit of its requests; 0: none.
        tokens_per_minute: Limit of its tokens, of prompts and answers together; 0: none.
        concurrent: How many of its requests may run at once; 0: any.
        remove: Take it out.
    """
    from ptune_serve.access import edited_keys
    from ptune_serve.access.edited_keys import Rights
    from ptune_serve.access.keys import Limits, read

    if remove:
        edited_keys.remove(file, name)
        print(f"{name} is taken out of {file}")
        return 0
    known = next((one for one in read(file).keys if one.name == name), None) if file.exists() else None
    now = Rights() if known is None else Rights.of(known)
    asked = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
    }
    limits = {**now.limits.model_dump(), **{one: value for one, value in asked.items() if value is not None}}
    if low := next((f"{one} {value}" for one, value in limits.items() if (value or 0) < 0), None):
        raise UsageError(f"a limit is a number above 0, or 0 for none: {low}")
    rights = Rights(
        now.scopes if scopes is None else scopes,
        now.adapters if adapters is None else None if adapters == ALL else adapters,
        Limits(**{one: value or None for one, value in limits.items()}),
    )
    if known is not None:
        edited_keys.change(file, name, rights)
        print(f"{file}: {name} may now {', '.join(rights.scopes)}")
        return 0
    secret = edited_keys.add(file, name, rights)
    tell(name=name, key=secret)
    print(f"{secret}\n{file} holds its SHA-256 alone: keep the key, it is not shown again")
    return 0
