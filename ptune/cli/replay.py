"""ptune replay RECEIPTS ID --bundle BUNDLE"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ptune.cli.engine_flags import NO_FLAGS, EngineFlags
from ptune.cli.parse import parse
from ptune.cli.result import tell


def run(arguments: list[str]) -> int:
    return parse(replay, arguments, "replay")


def replay(
    receipts: Annotated[Positional[Path], tyro.conf.arg(metavar="RECEIPTS")],
    request_id: Annotated[Positional[str], tyro.conf.arg(metavar="ID")],
    bundle: Path,
    engine: EngineFlags = NO_FLAGS,
) -> int:
    """Computes an answer of a chat server again from its receipt, and compares it token by token.

    Exit code 0 where it is the same, 1 where it is not. The receipt's seal is checked first.

    Args:
        receipts: The folder that `ptune serve --receipts` wrote.
        request_id: The request's `x-request-id`.
        bundle: A bundle with the base and the adapter that answered, anywhere.
        engine: Options of the engine.
    """
    store = importlib.import_module("ptune_serve.receipts.store")
    receipt = store.find(receipts, request_id)
    found = importlib.import_module("ptune_serve.receipts.replay").replay(receipt, bundle, engine)
    tell(receipt=receipt, same=found.differs is None, differs=found.differs)
    body = receipt["body"]
    by = body["model"] if receipt["adapter"] is None else f"{body['model']} ({receipt['adapter']})"
    print(f"{request_id}, {receipt['time']}, {by}, seed {body['seed']}")
    if found.differs is None:
        print(f"the same {found.tokens} tokens in {found.answers} answer{'s' * (found.answers != 1)}")
        return 0
    number, at = found.differs
    print(f"DIFFERS: answer {number} from its token {at} on")
    return 1
