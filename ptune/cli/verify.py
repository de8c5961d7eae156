"""ptune verify BUNDLE, and ptune verify RUN --url URL"""

from __future__ import annotations

import os
from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import cores, parse, say_next, shown
from ptune.cli.result import tell
from ptune.errors import UsageError


def run(arguments: list[str]) -> int:
    return parse(verify, arguments, "verify")


def verify(
    place: Positional[Path],
    url: str | None = None,
    model: str | None = None,
    adapter: str | None = None,
    api_key_env: str | None = None,
    backbone: str | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
) -> int:
    """Checks every file of a bundle against its hash and measures every hop again on this machine.

    With --url: holds a server to what an adapter answers in torch, and says what is the matter with it. Exit code 0 where it
    is right, 1 where it is wrong, 3 where it cannot be told.

    Args:
        place: The bundle's folder; with --url also a run's, or an adapter's with its parity.json.
        url: An OpenAI-compatible server, ptune's or another: http://127.0.0.1:8000/v1
        model: The name to ask it under; default: the adapter's, or the only one that it has.
        adapter: Which adapter of a bundle with several.
        api_key_env: The environment variable that holds the server's key.
        backbone: Where the base is now, if not where it was.
        trust_remote_code: Run Python code that comes with the base.
        threads: Threads of onnxruntime; default: all cores.
    """
    if url is not None:
        return _hold(place, url, model, adapter, api_key_env)
    if (model, adapter, api_key_env) != (None, None, None):
        raise UsageError("--model, --adapter and --api-key-env are about a server: name it with --url")
    from ptune.formats.bundle import Bundle

    Bundle.open(place)  # before what brings torch
    from ptune import publish
    from ptune.cli.proof_table import show

    proof = publish.verify(
        place, backbone=backbone, trust_remote_code=trust_remote_code, threads=threads or cores()
    )
    tell(bundle=place)
    show(proof)
    publish.refuse_drift(proof)
    say_next(f"ptune serve {shown(place)}")
    return 0


def _hold(place: Path, url: str, model: str | None, adapter: str | None, api_key_env: str | None) -> int:
    """Asks the server at `url` and prints the table and the verdict."""
    from ptune.cli.verdict_table import show_verdict
    from ptune.formats.parity_json import current_parity
    from ptune.formats.run import Run
    from ptune.verify.endpoint.answers import by_chat, by_completions, chosen_model
    from ptune.verify.endpoint.client import Endpoint
    from ptune.verify.endpoint.verdict import judged
    from ptune.verify.parity_place import is_run, located

    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise UsageError(f"--api-key-env {api_key_env}: there is no such variable in the environment")
    with Endpoint(url, key) as endpoint:
        if (
            is_run(place)
            and current_parity(Run.open(place).adapter_path, Run.open(place).record().base) is None
        ):
            from ptune import publish

            publish.leave_parity(Run.open(place))
        parity, name = located(place, adapter)
        asked = chosen_model(endpoint, model, name)
        ways = [by_completions(endpoint, asked, parity), by_chat(endpoint, asked, parity)]
    figures, verdict = judged([way for way in ways if way is not None], parity)
    tell(url=endpoint.url, model=asked, figures=figures, verdict=verdict.kind, because=verdict.because)
    show_verdict(f"{endpoint.url}, model {asked}", figures, verdict)
    return verdict.exit_code
