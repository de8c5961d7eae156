"""What else an adapter changes, before a text, at a decoder's ends and in biases, as peft's own modules hold it, and as a graph's
plainest inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import Embedding
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.prompt_cache import prompt_cache
from ptune.codecs.tiles import Grid
from ptune.engine.adapters.lora import Adapter
from ptune.formats.signature import LORA_GAINED, LORA_ONES, Ends, Signature
from ptune.parity import Array
from ptune.verify.decoder.gains import gains_plugged
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.reference import RANDOM_RANK, RANDOM_SCALE, RANDOM_SEED, Pair

EVERY = 3  # tokens of a probe of which one is replaced by a token of the adapter's own


@dataclass(frozen=True)
class PlainEnds:
    """An adapter's own tokens, its LoRA of the embedding, whether the first rank of its factors is a bias, its gains, its virtual
    tokens, and the tokens from whose last place on it acts."""

    rows: Mapping[int, Array] = field(default_factory=dict)  # token -> its embedding [width]
    columns: Mapping[int, Array] = field(default_factory=dict)  # token -> its column of the head [width]
    low_rank: Pair | None = None  # [vocab, r], [r, width]
    biased: bool = False
    gains: Mapping[str, Array] = field(default_factory=dict)  # by the graph's inputs
    prefix: Mapping[str, Array] = field(
        default_factory=dict
    )  # cache input -> [kv_heads, virtual tokens, dim]
    invocation: tuple[int, ...] = ()
    grids: Mapping[int, Grid] = field(
        default_factory=dict
    )  # first row's token -> rows down and across (M-RoPE)

    @property
    def before(self) -> int:
        """Number of virtual tokens."""
        return next((cache.shape[1] for cache in self.prefix.values()), 0)

    def acts(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Whether the adapter acts on each of these tokens."""
        size = len(self.invocation)
        if not size:
            return np.ones(len(ids), np.bool_)
        places = [at for at in range(len(ids) - size + 1) if tuple(ids[at : at + size]) == self.invocation]
        acts: NDArray[np.bool_] = np.arange(len(ids)) >= max(places, default=len(ids))
        return acts

    def invoked(self, ids: Sequence[int], at: int) -> tuple[int, ...]:
        """The same number of tokens with the invocation among them, at an index if it fits there; as they are where there is none."""
        at = max(0, min(at, len(ids) - len(self.invocation)))
        return (*ids[:at], *self.invocation, *ids[at + len(self.invocation) :])[: len(ids)]

    @classmethod
    def of_prompt(cls, model: PeftModel, signature: Signature) -> PlainEnds:
        """The virtual tokens of the active adapter, which stands before every text."""
        with torch.no_grad():
            prompt = model.get_prompt(1)
        if isinstance(prompt, torch.Tensor):
            sides = prompt_cache(model.get_base_model(), prompt[0].float().cpu().numpy())
        else:
            sides = [(one.keys[0].float().numpy(), one.values[0].float().numpy()) for one in prompt.layers]
        tokens = int(model.active_peft_config.num_virtual_tokens)
        flat = [_filled(side, tokens) for layer in sides for side in layer]
        return cls(prefix=dict(zip(signature.past_names(), flat, strict=True)))

    @classmethod
    def of_peft(cls, model: PeftModel, vocab: int) -> PlainEnds:
        """The active adapter's. vocab: rows of the base's embedding before the adapter's were added."""
        base, adapter = model.get_base_model(), str(model.active_adapter)
        embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
        low_rank = None
        if isinstance(embedding, Embedding):
            b = embedding.lora_embedding_B[adapter] * embedding.scaling[adapter]
            pair = embedding.lora_embedding_A[adapter], b
            low_rank = tuple(side.detach().float().T.contiguous().cpu().numpy() for side in pair)
        return cls(
            _own(embedding, adapter, vocab),
            _own(head, adapter, vocab),
            low_rank,
            invocation=tuple(model.active_peft_config.alora_invocation_tokens or ()),
        )

    @classmethod
    def of_engine(cls, adapter: Adapter) -> PlainEnds:
        """As the engine has read them from the adapter's files."""
        changes = adapter.ends
        if adapter.prefix is not None:
            return cls(prefix=adapter.prefix.caches)
        if changes is None:
            return cls(biased=adapter.biased, gains=adapter.gains, invocation=adapter.invocation)
        rows = dict(zip(changes.row_ids.tolist(), changes.rows, strict=True))
        columns = dict(zip(changes.column_ids.tolist(), changes.columns.T, strict=True))
        return cls(rows, columns, changes.low_rank, adapter.biased, adapter.gains)

    @classmethod
    def random(cls, signature: Signature) -> PlainEnds:
        """A random LoRA of the embedding and random gains, where there are sockets for them: one that ignores them shows up in
        the outputs."""
        random, ends = np.random.default_rng(RANDOM_SEED), signature.ends
        gains = {
            name: (random.standard_normal(size) * RANDOM_SCALE).astype(np.float32)
            for name, size in signature.gain_sizes().items()
        }
        if ends is None or not {"embedding", "tokens"} & {*ends.kinds}:
            return cls(gains=gains)
        a = random.standard_normal((signature.vocab_size, RANDOM_RANK)).astype(np.float32)
        b = (random.standard_normal((RANDOM_RANK, ends.width)) * RANDOM_SCALE).astype(np.float32)
        return cls(low_rank=(a, b), gains=gains)

    @contextlib.contextmanager
    def plugged(self, model: PreTrainedModel, ends: Ends | None) -> Iterator[None]:
        """Adds all that to a plain model by forward hooks, independently of peft and sockets."""
        with contextlib.ExitStack() as stack:
            if self.low_rank is not None:
                stack.enter_context(self._embedding_plugged(model))
            if self.gains:
                assert ends is not None
                stack.enter_context(gains_plugged(model, self.gains, ends.turn_group))
            yield

    @contextlib.contextmanager
    def _embedding_plugged(self, model: PreTrainedModel) -> Iterator[None]:
        assert self.low_rank is not None
        a, b = (torch.from_numpy(side) for side in self.low_rank)

        def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            return output + (a[inputs[0]] @ b) * getattr(layer, "embed_scale", 1.0)

        hook = model.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def inputs(self, ids: Sequence[int], ends: Ends, vocab: int, rank: int) -> dict[str, NDArray[np.generic]]:
        """The graph's inputs for one sequence in one group, `input_ids` among them. rank: of its factors."""
        kept, shift = np.ones((len(ids), 1), np.bool_), np.zeros((len(ids), ends.width), np.float32)
        for at, token in enumerate(ids):
            if token in self.rows:
                kept[at], shift[at] = False, self.rows[token]
            elif self.low_rank is not None:
                shift[at] = self.low_rank[0][token] @ self.low_rank[1]
        columns = np.array([*self.columns.values()], np.float32).reshape(-1, ends.width)
        known = np.array([token if token < vocab else 0 for token in ids], np.int64)
        inputs: dict[str, NDArray[np.generic]] = {"input_ids": known[None]}
        inputs |= zip(ends.step_inputs, (kept[None], shift[None]), strict=False)
        if ends.own_columns is not None:
            inputs[ends.own_columns] = np.ascontiguousarray(columns.T)[None]
        if ends.has_biases:
            inputs[LORA_ONES] = np.zeros((1, len(ids), rank), np.float32)
            inputs[LORA_ONES][0, :, :1] = (self.biased * self.acts(ids))[:, None]
        if ends.has_gains:
            inputs[LORA_GAINED] = np.full((1, len(ids), 1), bool(self.gains), np.float32)
        return inputs

    def logits(self, computed: Array, vocab: int) -> Array:
        """Logits [n, vocab of the adapter] of the graph's, whose last columns are the adapter's own tokens."""
        logits: Array = np.full(
            (len(computed), max([vocab, *(token + 1 for token in self.columns)])), np.nan, np.float32
        )
        logits[:, :vocab] = computed[:, :vocab]
        for at, token in enumerate(self.columns, vocab):
            logits[:, token] = computed[:, at]
        return logits

    def probes(self, probes: Sequence[Probe]) -> Sequence[Probe]:
        """The probes with tokens of the adapter's own, or its invocation, among theirs; as they are where it has none."""
        own = sorted(self.rows)
        if self.invocation:
            middle = [probe.wanted[len(probe.wanted) // 2] for probe in probes]
            return [
                replace(one, ids=self.invoked(one.ids, at)) for one, at in zip(probes, middle, strict=True)
            ]
        if not own:
            return probes

        def mixed(ids: Sequence[int]) -> tuple[int, ...]:
            return tuple(
                own[at // EVERY % len(own)] if at % EVERY == 1 else token for at, token in enumerate(ids)
            )

        return [replace(probe, ids=mixed(probe.ids)) for probe in probes]


def _filled(side: Array, tokens: int) -> Array:
    """Keys or values of all virtual tokens: a sliding window has forgotten the first ones, which no token behind them sees."""
    return np.pad(side, ((0, 0), (tokens - side.shape[1], 0), (0, 0)))


def _own(module: nn.Module, adapter: str, vocab: int) -> dict[int, Array]:
    """Rows of a module's weight that are an adapter's own: trained ones, and those behind the base's."""
    weight: torch.Tensor = module.weight.detach()  # with what was trained in place
    trained: Sequence[int] = ()
    if isinstance(module, TrainableTokensWrapper):
        trained = module.token_adapter.token_indices.get(adapter, ())
    elif isinstance(module, ModulesToSaveWrapper) and adapter in module.modules_to_save:
        trained = range(len(weight))
    return {token: weight[token].float().cpu().numpy() for token in {*trained, *range(vocab, len(weight))}}


@contextlib.contextmanager
def with_rows(model: PreTrainedModel, vocab: int | None) -> Iterator[None]:
    """Gives a model rows for new tokens as long as it is used, for peft to replace. vocab: tokens in all; None: as it is."""
    before = model.get_input_embeddings().weight.shape[0]
    if vocab is None or vocab <= before:
        yield
        return
    _resize(model, vocab)
    try:
        yield
    finally:
        _resize(model, before)


def _resize(model: PreTrainedModel, vocab: int) -> None:
    with torch.random.fork_rng(devices=[]):  # transformers draws new rows
        model.resize_token_embeddings(vocab, mean_resizing=False)
    model.requires_grad_(False)
