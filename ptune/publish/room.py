"""Whether this machine can hold the graphs of an export, told from a model's config before its weights are read."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.backbone.load import in_one_sentence, read_config
from ptune.backbone.locate import locate
from ptune.backbone.vision_language import auto_class
from ptune.config.recipe import Backbone
from ptune.engine.memory import most_bytes, packed_bytes
from ptune.errors import UsageError
from ptune.formats.bundle import FP32, NF4
from ptune.planning.model_memory import Sizes, sizes_of, without_weights


def check_room(backbone: Backbone, profiles: Sequence[str]) -> None:
    """Raises: UsageError where a graph's weights alone are more than the memory of this machine, or of this container."""
    source = locate(backbone.model)
    with in_one_sentence(backbone.model, source):
        config = read_config(backbone, source)
        model = without_weights(config, auto_class(config), trust_remote_code=backbone.trust_remote_code)
        sizes = sizes_of(model)
    profile = NF4 if profiles[0] == NF4 else FP32  # what all other graphs are compared with
    needed, there = weights_bytes(sizes, profile), most_bytes()
    if needed <= there:
        return
    instead = ": take a machine with more, or a smaller model"
    if profile == FP32 and weights_bytes(sizes, NF4) <= there:
        instead = ": export it in nf4 without fp32 (--quantize nf4 --profiles nf4,int4)"
    raise UsageError(
        f"{backbone.model} has {sizes.parameters / 1e9:.1f} billion weights, whose graph in {profile} takes"
        f" {needed / 1e9:.1f} GB of memory to be proved, predicted, and there are {there / 1e9:.1f} GB in all{instead}"
    )


def weights_bytes(sizes: Sizes, profile: str) -> int:
    """What the weights of an exported graph take at the least, in bytes: those packed for products."""
    return packed_bytes(sizes.served()[profile], 4 * sizes.head, nf4=profile == NF4)
