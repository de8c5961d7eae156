"""Whether a decoder can be exported, told before a weight is read: by its config, and by one pass of the model in shapes."""

from __future__ import annotations

from transformers import PretrainedConfig

from ptune.backbone import exportable
from ptune.backbone.load import in_one_sentence, read_config
from ptune.backbone.locate import locate
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.export.decoder.trace import cache_layers


def check_exportable(spec: Backbone) -> None:
    """Reads the config of a decoder, and no weights. Raises: BackboneError where it cannot be exported, or found."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source):
        reason = why_not_exportable(read_config(spec, source), trust_remote_code=spec.trust_remote_code)
    if reason is not None:
        raise BackboneError(f"{spec.model} cannot be exported to ONNX: {reason}")


def why_not_exportable(config: PretrainedConfig, *, trust_remote_code: bool = False) -> str | None:
    """As `ptune.backbone.exportable.why_not_exportable`; what the config does not tell is told by the model's own code."""
    reason = exportable.why_not_exportable(config)
    if reason is not None or config.is_encoder_decoder:
        return reason
    try:
        cache_layers(config, trust_remote_code=trust_remote_code)
    except BackboneError as error:
        reason = str(error).removeprefix(f"{config.model_type} cannot be exported: ")
        stopped = error.__cause__ is not None
        return (
            f"{config.model_type} stops in its own code ({reason}); {exportable.INSTEAD}"
            if stopped
            else reason
        )
    return None
