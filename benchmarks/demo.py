"""What the demo reaches and proves: python -m benchmarks.demo      (10 minutes and more on 2 cores)

Does what `bash scripts/demo --no-serve` does once all is installed: trains `chat_lora`, evaluates, exports, proves. A run that
is finished in runs/chat_lora is used as it is. Writes results/demo.json: the figures of evaluation.json, and the hops of the
adapter in the bundle.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.sides import write
from ptune.cli.quickstart import RECIPE, quickstart
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run

PACKAGES = ("ptune", "torch", "transformers", "peft", "onnxruntime")
SIDES = {"base": "before", "base with examples in its context": "in_context", "tuned": "after"}


def main() -> int:
    """0 where the demo went through and the file is written."""
    if (code := quickstart(serve=False)) != 0:
        return code
    print(
        write("demo", found(Run.open(Path("runs") / RECIPE), Bundle.open(Path("bundles") / RECIPE)), PACKAGES)
    )
    return 0


def found(run: Run, bundle: Bundle) -> dict[str, Any]:
    """demo.json besides machine and versions."""
    evaluation, record = json.loads(run.evaluation_path.read_text(encoding="utf-8")), run.record()
    return {
        "command": "python -m benchmarks.demo",
        "recipe": RECIPE,
        "steps": record.steps,
        "threads": record.threads,
        "held_out": evaluation["examples"],
        "sides": {name: evaluation[key] for name, key in SIDES.items()},
        "hops": {hop.name: hop.model_dump() for hop in bundle.adapter(run.folder.name).hops},
    }


if __name__ == "__main__":
    sys.exit(main())
