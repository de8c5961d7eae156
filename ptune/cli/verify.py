"""ptune verify BUNDLE"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import cores, parse, say_next, shown


def run(arguments: list[str]) -> int:
    return parse(verify, arguments, "verify")


def verify(
    bundle: Positional[Path],
    backbone: str | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
) -> int:
    """Checks every file of a bundle against its hash and measures every hop again on this machine.

    Args:
        bundle: The bundle's folder.
        backbone: Where the base is now, if not where it was.
        trust_remote_code: Run Python code that comes with the base.
        threads: Threads of onnxruntime; default: all cores.
    """
    from ptune import publish
    from ptune.cli.proof_table import show

    proof = publish.verify(
        bundle, backbone=backbone, trust_remote_code=trust_remote_code, threads=threads or cores()
    )
    show(proof)
    publish.refuse_drift(proof)
    say_next(f"ptune serve {shown(bundle)}")
    return 0
