"""ptune speed BUNDLE"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import cores, parse, say_next, shown
from ptune.cli.result import tell


def run(arguments: list[str]) -> int:
    return parse(speed, arguments, "speed")


def speed(bundle: Positional[Path], threads: int | None = None, out: Path | None = None) -> int:
    """Measures how fast each profile of a bundle answers on this machine, one request after the other, beside its size.

    Args:
        bundle: The bundle's folder.
        threads: Threads of onnxruntime; default: all cores.
        out: Write the figures as JSON, too.
    """
    from ptune.formats.bundle import Bundle

    opened = Bundle.open(bundle)  # before what brings onnxruntime
    from ptune.formats.whole_write import write_json
    from ptune.verify.decoder.speed import speeds

    count = threads or cores()
    found = speeds(opened, count)
    sizes = {name: opened.graph_bytes(name) for name in found}
    for name, one in found.items():
        print(f"{name:>6}  {one.per_s:8.1f} {one.unit}/s  {sizes[name]:>14,} bytes")
    told = {
        "threads": count,
        "profiles": {
            name: {"per_s": one.per_s, "unit": one.unit, "bytes": sizes[name]} for name, one in found.items()
        },
    }
    if out is not None:
        write_json(out, told)
    tell(**told)
    fastest = max(found, key=lambda name: found[name].per_s)
    say_next(f"ptune serve {shown(bundle)} --profile {fastest}")
    return 0
