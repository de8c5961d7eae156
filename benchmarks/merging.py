"""What merging into 8 and 4 bits leaves of what an adapter learnt, on held-out text: python -m benchmarks.merging --work FOLDER

Two adapters for each seed: plain LoRA, and LoRA that was trained for int4 (`method.merge_into`). Each is merged as `ptune merge`
does it and written as `ptune export` writes its graphs; onnxruntime computes the loss of the same held-out answers with each.
What is kept is the share of the gain, (base - merged) / (base - unmerged), with a 95 % bootstrap interval over the held-out
examples. The base came in 4 bits (Q4_1), so its own int4 graph has its weights as they are, and LoftQ, which begins an adapter
with what rounding the base loses, would begin with nothing. FOLDER keeps the runs: what is in it is not trained again.
About half an hour on two cores. Writes results/merging.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sides import interval, write

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec, Example
    from ptune.config.recipe import Backbone, Recipe

PACKAGES = ("ptune", "torch", "transformers", "peft", "onnxruntime")
RECIPE, STEPS, BATCH = "chat_lora", 40, 4
LRS = {"lora": 1e-3, "merge_into_int4": 3e-3}
PROFILES = ("fp32", "int8", "int4")
Losses = dict[str, list[float]]  # profile -> loss of each held-out example, summed over its targets


def main() -> int:
    """0 where the file is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and graphs")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    found: dict[str, list[dict[str, Any]]] = {
        method: [of_run(method, seed, arguments.work) for seed in seeds] for method in LRS
    }
    base = of_base(arguments.work, found["lora"][0]["folder"])
    rows = {method: row(base["losses"], of_seeds) for method, of_seeds in found.items()}
    against = pooled(found["lora"], "fp32")
    for method, of_seeds in found.items():
        rows[method]["of_the_gain_of_lora"] = {
            profile: share(base["losses"]["fp32"], pooled(of_seeds, profile), against) for profile in PROFILES
        }
    document = {
        "command": f"python -m benchmarks.merging --work FOLDER --seeds {arguments.seeds}",
        "recipe": {"name": RECIPE, "steps": STEPS, "batch_size": BATCH, "lr": LRS, "seeds": [*seeds]},
        "examples": len(base["losses"]["fp32"]),
        "targets": base["targets"],
        "rows": {"base": {"loss": means(base["losses"], base["targets"])}, **rows},
    }
    print(json.dumps(document["rows"], indent=1))
    print(write("merging", document, PACKAGES))
    return 0


def recipe_of(method: str, seed: int) -> Recipe:
    """The shipped recipe, shorter."""
    import ptune

    shipped = ptune.recipe(RECIPE)
    train = shipped.train.model_copy(
        update={"lr": LRS[method], "max_steps": STEPS, "batch_size": BATCH, "seed": seed}
    )
    asked = "int4" if method == "merge_into_int4" else None
    return shipped.model_copy(
        update={
            "train": train,
            "method": shipped.method.model_copy(update={"merge_into": asked}),
            "backbone": shipped.backbone.model_copy(update={"dtype": "float32"}),
        }
    )


def of_run(method: str, seed: int, work: Path) -> dict[str, Any]:
    """Trains, merges and measures one adapter; what lies in the folder already is read."""
    from ptune import publish
    from ptune.config.recipe import Backbone
    from ptune.evaluation.held_out import held_out
    from ptune.fine_tune import train
    from ptune.formats.run import Run

    folder = work / f"{method}-{seed}"
    kept = folder / "losses.json"
    if not kept.is_file():
        run = Run.open(folder) if (folder / "adapter").is_dir() else train(recipe_of(method, seed), folder)
        held, merged = held_out(run), work / "merged"
        shutil.rmtree(merged, ignore_errors=True)
        hop = publish.merge_run(run, merged).hop
        measured = of_model(Backbone(model=str(merged)), held.codec, held.examples, work / "graphs")
        kept.write_text(json.dumps({**measured, "live_to_merged": hop.max_abs_logprob}), encoding="utf-8")
    print(f"{method}, seed {seed}: measured", flush=True)
    return {"folder": folder, **json.loads(kept.read_text(encoding="utf-8"))}


def of_base(work: Path, run: Path) -> dict[str, Any]:
    """The same of the base, on the text that a run holds out."""
    from ptune.evaluation.held_out import held_out
    from ptune.formats.run import Run

    kept = work / "base.json"
    if not kept.is_file():
        held, backbone = held_out(Run.open(run)), recipe_of("lora", 0).backbone
        kept.write_text(json.dumps(of_model(backbone, held.codec, held.examples, work / "graphs")), "utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def of_model(
    backbone: Backbone, codec: ChatCodec, examples: Sequence[Example], folder: Path
) -> dict[str, Any]:
    """Losses under each profile, the number of targets, and the share of int4's blocks that are as they were."""
    from ptune.export.decoder.int4 import write_int4
    from ptune.export.decoder.int8 import write_int8
    from ptune.export.weights import ModelWeights
    from ptune.export.write import write_bundle
    from ptune.publish.decoder_run import reference
    from ptune.verify.decoder.graph import PlainGraph

    shutil.rmtree(folder, ignore_errors=True)
    loaded = reference(backbone)
    bundle = write_bundle(folder, loaded.model.config, ModelWeights(loaded.model), codec, loaded.identity)
    places = {profile: folder / "graphs" / profile / "model.onnx" for profile in PROFILES}
    write_int8(places["fp32"], places["int8"])
    kept = write_int4(places["fp32"], places["int4"]).kept
    losses = {}
    for profile, place in places.items():
        graph = PlainGraph(place, bundle.decoder, threads=1)
        losses[profile] = [loss(graph, example) for example in examples]
    return {"losses": losses, "targets": sum(sum(one.targets[1:]) for one in examples), "int4_kept": kept}


def loss(graph: Any, example: Example) -> float:
    """The sum of an example's cross-entropies."""
    wanted = [place - 1 for place in range(1, len(example)) if example.targets[place]]
    rows = graph.logprobs(example.ids, wanted)
    return -float(sum(row[example.ids[place + 1]] for place, row in zip(wanted, rows, strict=True)))


def row(base: Losses, of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One method: its losses a token and the share of its own gain that each profile keeps."""
    targets, own = of_seeds[0]["targets"], pooled(of_seeds, "fp32")
    return {
        "loss": means({profile: pooled(of_seeds, profile) for profile in PROFILES}, targets),
        "kept": {profile: share(base["fp32"], pooled(of_seeds, profile), own) for profile in PROFILES[1:]},
        "int4_blocks_as_they_were": [one["int4_kept"] for one in of_seeds],
        "live_to_merged": [one["live_to_merged"] for one in of_seeds],
    }


def pooled(of_seeds: Sequence[dict[str, Any]], profile: str) -> list[float]:
    """The loss of each example, mean over seeds."""
    columns = zip(*(one["losses"][profile] for one in of_seeds), strict=True)
    return [sum(column) / len(column) for column in columns]


def means(losses: Losses, targets: int) -> dict[str, float]:
    """Loss a token."""
    return {profile: sum(of_examples) / targets for profile, of_examples in losses.items()}


def share(base: Sequence[float], merged: Sequence[float], unmerged: Sequence[float]) -> dict[str, float]:
    """(base - merged) / (base - unmerged) over all examples, with its interval."""

    def of(examples: Sequence[tuple[float, float, float]]) -> float:
        sums = [sum(column) for column in zip(*examples, strict=True)]
        return (sums[0] - sums[1]) / (sums[0] - sums[2])

    examples = [*zip(base, merged, unmerged, strict=True)]
    low, high = interval(examples, of)
    return {"value": of(examples), "low": low, "high": high}


if __name__ == "__main__":
    sys.exit(main())
