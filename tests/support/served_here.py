"""Each proof of a bundle ends with a server process, which takes seconds to start: in tests the same app answers from a thread.

Its command line is read as the process would read it. That a process does the same is tested where one is started: in
test_whole_way, test_translate and test_encoder_server.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from ptune.cli.parse import parse
from ptune.cli.serve import Serve
from ptune.errors import ParityError, PtuneError
from ptune.verify import server
from ptune_serve import lifecycle
from support import fake_chat_model


def use() -> None:
    """Lets every proof of this process ask a server in a thread."""
    server.serving = serving


@contextlib.contextmanager
def serving(bundle: Path, threads: int, *arguments: str) -> Iterator[str]:
    """As `ptune.verify.server.serving`."""
    words = [str(bundle), "--port", "0", "--no-ui", "--threads", str(threads), *arguments]
    wanted = parse(Serve, words, "serve")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, create = lifecycle.opened(wanted.bundle, wanted.engine)
    except PtuneError as error:
        raise ParityError(f"the server did not start: error: {error}") from None
    with contextlib.closing(model), fake_chat_model.serving(create(wanted._settings())) as url:
        yield url
