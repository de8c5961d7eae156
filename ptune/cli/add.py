"""ptune add BUNDLE PEFT_FOLDER"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import cores, parse, say_next, shown
from ptune.cli.result import tell
from ptune.formats.bundle import Folded
from ptune.formats.onnx_adapter import SUFFIX


def run(arguments: list[str]) -> int:
    return parse(add, arguments, "add")


def add(
    bundle: Positional[Path],
    adapter: Positional[Path],
    name: str | None = None,
    rank: int | None = None,
    unproved: bool = False,
    backbone: str | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
) -> int:
    """Adds an adapter in PEFT's format, trained by anything, to a bundle; proved against torch where that is possible.

    Args:
        bundle: The bundle's folder.
        adapter: The PEFT folder (adapter_config.json and adapter_model.safetensors), a run of ptune's, or a `.onnx_adapter` of
            onnxruntime's.
        name: Name under which it is served; default: the name of the folder or file.
        rank: Largest rank of its LoRA pairs, if it is of another PEFT type. Updates of a higher one are cut to it, and what
            that loses is said; default: only types that are exact as LoRA.
        unproved: Do not load the base in torch to prove it; it is marked "parity: unmeasured".
        backbone: Where the base is now, if not where it was.
        trust_remote_code: Run Python code that comes with the base.
        threads: Threads of onnxruntime; default: all cores.
    """
    from ptune import publish
    from ptune.cli.proof_table import show
    from ptune.verify.proof import Proof

    name = name or adapter.resolve().name.removesuffix(SUFFIX)
    adapter = adapter / "adapter" if (adapter / "run.json").is_file() else adapter
    record = publish.add(
        bundle,
        adapter,
        name,
        prove_it=not unproved,
        backbone=backbone,
        trust_remote_code=trust_remote_code,
        threads=threads or cores(),
        rank=rank,
    )
    if record.hops:
        show(Proof((), {name: record.hops}))
    tell(bundle=bundle, adapter=record)
    if record.folded is not None:
        print(_of_folded(record.folded))
    print(f"added {name} (rank {record.rank}, parity {record.parity}) to {shown(bundle)}")
    say_next(f"ptune serve {shown(bundle)}")
    return 0


def _of_folded(folded: Folded) -> str:
    """What became of an adapter of another type, in a sentence."""
    if folded.error is None:
        return f"{folded.method} is served folded, and computes the same"
    worst = max(folded.errors, key=folded.errors.__getitem__)
    return (
        f"{folded.method} is served as LoRA pairs of rank {folded.rank}, which lose {folded.error:.2%} of its updates (relative"
        f" error, Frobenius norm), most in {worst}: {folded.errors[worst]:.2%}"
    )
