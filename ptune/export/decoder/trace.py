"""Any transformers decoder, traced into one ONNX graph under the flat-token signature, without its weights.

The model is built with fake parameters (shapes only) and real buffers (rotary frequencies and the like, computed from
the config), so that tracing takes little memory. `weights.attach` streams the weights in afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ptune.backbone.rope import drop_choice_by_length, with_fixed_rope
from ptune.backbone.vision_language import auto_class, in_three_dimensions, only_text, text_config
from ptune.codecs.positions import AXES
from ptune.errors import BackboneError, PtuneError
from ptune.export import short_sums, softplus
from ptune.export.decoder import attention, experts
from ptune.export.decoder.cache_geometry import Caches, observed
from ptune.export.decoder.end_sockets import EmbeddingSocket, HeadSocket, describe_ends, install_ends
from ptune.export.decoder.example import DYNAMIC as DYNAMIC
from ptune.export.decoder.example import example
from ptune.export.decoder.experts import Part, spell_out
from ptune.export.decoder.gains import keep_own_inputs
from ptune.export.decoder.in_place import check_in_place
from ptune.export.decoder.sockets import Socket, StepInputs, allow_gains, describe, install
from ptune.export.decoder.state_kinds import kind_of
from ptune.export.decoder.states import StateInputs, install_states
from ptune.export.independence import check_independent
from ptune.export.operators import TRANSLATIONS, with_real_shapes
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import (
    TURN_GROUP,
    CacheLayer,
    EncoderSignature,
    EndKind,
    Signature,
    StateLayer,
)

OPSET = 20


@dataclass(frozen=True)
class Traced:
    """A graph whose large initializers have no values yet, and its signature."""

    graph: onnx_ir.Model
    signature: Signature | EncoderSignature | Seq2SeqSignature
    transposed: frozenset[str]  # weights that are [in, out] in the graph and [out, in] in transformers
    names: dict[str, tuple[str, ...]]  # each weight's names in the state dict; several if weights are tied
    parts: Mapping[str, Part] = field(default_factory=dict)  # matrices that are one expert's part of a weight


class Step(nn.Module):
    """One step of the engine: `model` on flat tokens, with caches and adapters as inputs."""

    def __init__(
        self,
        model: PreTrainedModel,
        sockets: Sequence[Socket | HeadSocket],
        signature: Signature,
        caches: Caches,
        embedding: EmbeddingSocket | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.sockets = sockets
        self.ends, self.of_call = signature.ends, caches.of_call
        self.gains = [*signature.gain_sizes()]
        self.embedding = embedding
        self.keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        pad_indices: Tensor,
        unpad_indices: Tensor,
        seqlens_k: Tensor,
        query_seqlens: Tensor,
        capacity: Tensor,
        logits_indices: Tensor,
        lora_mask: Tensor,
        of_states: list[Tensor],
        past: list[Tensor],
        factors: list[Tensor],
        of_ends: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns logits [groups, n, vocab] at `logits_indices`, and the caches and states after the step.

        of_states: of a model that keeps states their `STATE_INPUTS`, then the states.
        of_ends: the inputs of `Ends`, which may be none: columns of the head, gains, those of the embedding, `lora_ones`, then
        `lora_gained`.
        """
        pairs = {s.name: (factors[2 * i], factors[2 * i + 1]) for i, s in enumerate(self.sockets)}
        wanted = logits_indices if self.keeps_logits else None
        step = StepInputs(
            lora_mask, pairs, past, pad_indices, unpad_indices, seqlens_k, query_seqlens, capacity, wanted
        )
        step.of_call = self.of_call
        if self.ends is not None:
            given = iter(of_ends)
            step.own = next(given) if self.ends.own_columns else None
            step.gains = {name: next(given) for name in self.gains}
            step.kept, step.shift = (next(given) if self.ends.step_inputs else None for _ in range(2))
            step.ones = next(given) if self.ends.has_biases else None
            step.gained = next(given) if self.ends.has_gains else None
        if of_states:
            pad_rows, unpad_rows, new_tokens, *states = of_states
            step.states = StateInputs(pad_rows, unpad_rows, new_tokens, states)
        if self.embedding is not None:
            self.embedding.step = step
        for module in self.model.modules():
            if isinstance(module, Socket | HeadSocket):
                module.step = step
            else:
                setattr(module, attention.STEP, step)
        keep = {"logits_to_keep": logits_indices} if self.keeps_logits else {}
        logits = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **keep).logits
        return logits if keep else logits[:, logits_indices], self._present(step)

    def _present(self, step: StepInputs) -> list[Tensor]:
        """Caches and states after the step, in graph order."""
        states = [] if step.states is None else [tensor for _, tensor in sorted(step.states.present.items())]
        return [*step.present, *step.shared, *states]


def trace(
    config: PretrainedConfig,
    *,
    ends: Sequence[EndKind] = (),
    turn_group: int = TURN_GROUP,
    trust_remote_code: bool = False,
) -> Traced:
    """Traces the decoder that `config` describes.

    ends: what adapters may bring at its ends, turns of pairs in groups of `turn_group` outputs among that.
    Raises: BackboneError with the reason if the architecture cannot be exported.
    """
    config = copy.deepcopy(config)  # building a model changes the config, which may be shared
    config = with_fixed_rope(config)
    config._experts_implementation, text = experts.NAME, text_config(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with refused_in_one_line(config.model_type):
        model = only_text(skeleton(config, mode, trust_remote_code, auto_class(config)))
        caches, states = memory_of(model, mode)
    described = describe_ends(model, ends, turn_group)
    plain = install(model, Socket)
    if described is not None and described.has_gains:
        described = allow_gains(plain, described)
    head, embedding = (None, None) if described is None else install_ends(model, described)
    sockets: list[Socket | HeadSocket] = [*plain]
    if head is not None and head.low_rank:
        sockets.append(head)
    names = tied_names(model)
    transposed = frozenset(f"{s.name}.weight" for s in plain if not s.is_conv1d)
    signature = Signature(
        vocab_size=model.get_output_embeddings().weight.shape[0],
        context=int(getattr(text, "max_position_embeddings", 2048)),
        cache=tuple(caches.layers),
        shared=caches.shared,
        sockets=describe(sockets),
        ends=described,
        states=states,
        axes=AXES if in_three_dimensions(config) else 1,
    )
    step = Step(model, sockets, signature, caches, embedding).eval()
    with mode:
        arguments, dynamic = example(signature)
    inputs = [
        *signature.step_inputs,
        *signature.past_state_names(),
        *signature.past_names(),
        *signature.factor_names(),
        *signature.end_inputs(),
    ]
    outputs = ["logits", *signature.kept()]
    graph = onnx_of(
        step, arguments, dynamic, inputs, outputs, config.model_type, optimize=False, along=(0, 1)
    )
    check_in_place(graph.graph, signature, config.model_type)
    if described is not None and described.has_gains:
        described = keep_own_inputs(graph, described)
        signature = signature.model_copy(update={"ends": described})
    return Traced(graph, signature, transposed, names, spell_out(graph))


def memory_of(model: PreTrainedModel, mode: FakeTensorMode) -> tuple[Caches, tuple[StateLayer, ...]]:
    """What a decoder keeps of its tokens. Prepares the layers that keep states. Raises: BackboneError where it is nothing."""
    caches = observed(model, mode)
    states = install_states(model, kind_of)
    if not caches.layers and not states:
        raise BackboneError(
            f"{model.config.model_type} cannot be exported: its layers hand nothing to transformers' attention interface"
        )
    return caches, states


def onnx_of(
    module: nn.Module,
    arguments: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    named: str,
    *,
    optimize: bool,
    along: Sequence[int] = (0,),
) -> onnx_ir.Model:
    """Traces a module into a graph without the exporter's metadata.

    along: the axes of its first input that must not mix: rows of a batch, or tokens.
    Raises: BackboneError with the reason, in one line.
    """
    with refused_in_one_line(named), quiet(), torch.no_grad():
        exported = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
        program = torch.onnx.export(
            with_real_shapes(exported),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            optimize=optimize,
            dynamo=True,
            custom_translation_table={**TRANSLATIONS},
            verbose=False,
        )
    check_independent(program.model, named, along)
    softplus.spell_out(program.model.graph)
    short_sums.pad(program.model.graph)
    strip(program.model)
    return program.model


@contextlib.contextmanager
def refused_in_one_line(named: str) -> Iterator[None]:
    """What a model's own code or the exporter raises, as a BackboneError."""
    try:
        yield
    except PtuneError:
        raise
    except Exception as error:
        raise BackboneError(f"{named} cannot be exported: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Shortens an exporter's error, which may be pages long, to its type and the line with the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # torch's exporter gives the cause in a summary at the end.
    summary = next((at for at, line in enumerate(lines) if "Exception summary" in line), None)
    reason = lines[summary + 1] if summary is not None and summary + 1 < len(lines) else None
    return f"{type(error).__name__}: {reason or next(iter(lines), 'no reason given')}"


def skeleton(
    config: PretrainedConfig,
    mode: FakeTensorMode,
    trust_remote_code: bool,
    kind: Any = AutoModelForCausalLM,
    attention: str = attention.NAME,
) -> PreTrainedModel:
    """Builds the model with fake parameters on the CPU and real buffers; tied parameters stay tied."""
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(
            config,
            attn_implementation=attention,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
    model.tie_weights()
    drop_choice_by_length(model)
    fakes: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in fakes:
                    fakes[id(parameter)] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
                setattr(module, name, fakes[id(parameter)])
    return model


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Maps each parameter's name to all names of that parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in groups.values() for name in group}


def cache_layers(config: PretrainedConfig, *, trust_remote_code: bool = False) -> tuple[CacheLayer, ...]:
    """The caches of a decoder. Raises: BackboneError if its attention cannot be exported."""
    config, mode = with_fixed_rope(copy.deepcopy(config)), FakeTensorMode(allow_non_fake_inputs=True)
    config._experts_implementation = experts.NAME
    with refused_in_one_line(config.model_type):
        model = only_text(skeleton(config, mode, trust_remote_code, auto_class(config)))
        return tuple(observed(model, mode).layers)


def strip(graph: onnx_ir.Model) -> None:
    """Removes the exporter's metadata (stack traces, paths of this machine)."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph.graph):
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporter, which warns about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
