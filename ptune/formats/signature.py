"""The signature of a graph: the contract between exporter and engine.

Tokens are laid out flat, [groups, tokens]. Only attention uses a padded view [batch, seq], gathered by `pad_indices` and
undone by `unpad_indices`, so a prefill chunk beside decode rows costs no padded matrix products.

Inputs                      type   shape                       meaning
input_ids                   int64  [groups, tokens]              flat tokens
position_ids                int64  [groups, tokens]              position of each token in its own sequence; [3, groups, tokens] of a model in
                                                                 which rows of images have one in time, height and width (`Signature.axes`)
pad_indices                 int64  [batch, seq]                  flat index of each cell; cells beyond a sequence's new tokens repeat its first one's (0 if idle)
unpad_indices               int64  [groups * tokens]             cell (row-major in [batch, seq]) of each flat token
seqlens_k                   int32  [batch]                       cached + new tokens of each sequence, minus 1
query_seqlens               int32  [batch]                       new tokens of each sequence; 0 = idle, its cache is untouched
capacity                    int32  []                            upper bound of the total length in the cache
logits_indices              int64  [n]                           token columns whose logits are returned
lora_mask                   float  [groups, tokens, R]           1 in all columns of a token that has an adapter; else 0
past_key.L, past_value.L    float  [batch, kv_heads, C, dim]     cache L; present_* may be bound to the same memory;
                                                                 int8 in graphs with an int8 cache (ptune.export.decoder.int8_cache)
SOCKET.A, SOCKET.B          float  [G, in, R], [G, R, out]       low-rank factors, B scaled; G is 1 or groups: row g meets A[g], B[g]; R = 0 is the bare base

A graph exported with sockets at its ends (`Ends`) may have its head among the sockets, on the wanted columns alone, and

EMBEDDING.kept              bool   [groups, tokens, 1]         whether a token's embedding is the base's, plus its shift; else it is the shift
EMBEDDING.shift             float  [groups, tokens, width]     see above; before the scale that some embeddings have
HEAD.own                    float  [G, width, N]               columns of the head for tokens of the adapter's own: N logits behind the base's
lora_ones                   float  [groups, tokens, R]         added to what A gives: 1 in the first column of a token whose adapter has biases, whose B begin with them; else 0
SOCKET.gain                 float  [G, 1, out]                 for a token whose adapter has gains the layer's own output y (with its bias) becomes y + y * gain
SOCKET.turn                 float  [G, 1, out]                 + y' * turn, where y' is y with the halves of each group of outputs exchanged (`Ends.turn_group`)
SOCKET.shift                float  [G, 1, out]                 + shift, of layers with a bias
SOCKET.inner                float  [G, 1, in]                  and its input x becomes x + x * inner, of layers that share their input with no other
lora_gained                 float  [groups, tokens, 1]         1 for a token whose adapter has gains; else 0

A graph some of whose layers keep states (`StateLayer`), as convolutions and recurrences do, has

state_pad_indices           int64  [batch, rows]               flat index of each cell of these layers' padded view, without a second query of a single token;
                                                                 cells beyond a sequence's new tokens repeat its first one's (0 if idle)
state_unpad_indices         int64  [groups * tokens]           cell (row-major in [batch, rows]) of each flat token
new_tokens                  int64  [batch]                     new tokens of each sequence; 0 = idle, its states come out bit for bit as they went in
past_state.N                float  [batch, *shape]             state N; zeros where a sequence begins. present_state.N may be bound to the same memory:
                                                                 every operator that reads past_state.N comes before the one that writes present_state.N

Outputs: logits float [groups, n, vocab], or [groups, n, vocab + N]; present_key.L, present_value.L, present_state.N as past.
Some layers attend to the keys and values of an earlier one: they take its cache as input, write the same numbers once more, and
leave shared_key.N, shared_value.N, cache number `Signature.shared[N]`. All outputs of a cache are bound to the same memory, or none.

Attention is com.microsoft::GroupQueryAttention, whose input 16 is `query_seqlens`.

A grouped graph treats a token as H / KV queries, one for each head that shares its keys (ptune.engine.decoder.inputs.attention_metadata):

pad_indices                         as above, for each query: the n tokens of a sequence, repeated for each head that shares keys
unpad_indices               int64  [groups * tokens, H]          row in [batch * seq * KV] of each head of each token
heads                       int64  [batch, seq, 3 KV]            rows in [groups * tokens * (H + 2 KV)]: KV queries, keys, values
query_seqlens, seqlens_k    count queries, not tokens
capacity                    int32  []                            the longest sequence, with its queries
mask                        float  [batch, 1, seq, capacity]     added to the scores: 0, or -1e30 for a masked position
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict


class Socket(BaseModel):
    """One linear layer that an adapter can plug into. `name` is the module's path in the transformers model."""

    model_config = ConfigDict(frozen=True)
    name: str
    in_features: int
    out_features: int
    kernel: tuple[int, int] | None = (
        None  # convolutions, whose factors are convolutions too (EncoderSignature)
    )


class CacheLayer(BaseModel):
    """The cache of one attention layer: keys [batch, kv_heads, capacity, key_dim], values [..., value_dim]."""

    model_config = ConfigDict(frozen=True)
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = (
        None  # keys that a query sees, its own among them; None: all, or not known (older bundles)
    )


class StateLayer(BaseModel):
    """One tensor that a layer keeps for each sequence instead of keys and values: float32, of one size however long the sequence.

    `name` is the path of the layer's module in the transformers model; a layer may keep several.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    shape: tuple[int, ...]  # of one sequence

    @property
    def size_bytes(self) -> int:
        return 4 * math.prod(self.shape)


EndKind = Literal["head", "embedding", "tokens", "biases", "gains", "turns", "images"]
"""What adapters may bring at a decoder's ends: LoRA of the output head, LoRA of the embedding, rows of single tokens in both.
And of every socket: biases, gains of its output and input, and turns, gains of pairs of outputs. Images are no adapter's: rows of
features in place of embeddings, in every bundle of a model that sees them."""

IMAGES: EndKind = "images"
END_KINDS: tuple[EndKind, ...] = tuple(kind for kind in get_args(EndKind) if kind != IMAGES)
"""Those that can be asked for."""


LORA_ONES = "lora_ones"
LORA_GAINED = "lora_gained"

TURN_GROUP = 64  # outputs of a group of turns, unless an exported adapter has another


class Ends(BaseModel):
    """What else adapters may reach in a bundle that was exported for it: a decoder's first and last layer, and its biases."""

    model_config = ConfigDict(frozen=True)
    kinds: tuple[EndKind, ...]
    embedding: str  # the module's path in the transformers model
    head: str
    tied: bool  # both have one weight
    width: int  # of the embedding and of the head's input
    # Parameter -> SHA-256 of its float32 values: PEFT saves copies of these beside factors.
    copies: dict[str, str] = {}
    # With biases: socket -> the base's own, which peft's files replace: float32, little-endian, in base64.
    biases: dict[str, str] = {}
    # With gains: sockets that have a shift, since their layers have a bias, and those whose input may have gains.
    shifts: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    turn_group: int = TURN_GROUP  # outputs of a layer within which halves are exchanged

    @property
    def step_inputs(self) -> tuple[str, ...]:
        """Inputs of the embedding that change every step: which embeddings are kept, and what is added to them."""
        if not {"embedding", "tokens", IMAGES} & {*self.kinds}:
            return ()
        return (f"{self.embedding}.kept", f"{self.embedding}.shift")

    @property
    def has_biases(self) -> bool:
        """Whether adapters may bring biases."""
        return "biases" in self.kinds

    @property
    def has_gains(self) -> bool:
        """Whether adapters may scale what layers read and give."""
        return "gains" in self.kinds or self.has_turns

    @property
    def has_turns(self) -> bool:
        """Whether adapters may also mix pairs of outputs."""
        return "turns" in self.kinds

    @property
    def own_columns(self) -> str | None:
        """The input with columns of the head for tokens of adapters' own; None where there is none."""
        return f"{self.head}.own" if "tokens" in self.kinds else None


class Signature(BaseModel):
    """Everything that an engine needs to feed a decoder's graph."""

    model_config = ConfigDict(frozen=True)
    vocab_size: int
    context: int  # longest sequence, in tokens
    cache: tuple[CacheLayer, ...]  # of the attention layers, in their order
    sockets: tuple[Socket, ...]
    ends: Ends | None = None  # None: adapters reach neither the embedding nor the head
    states: tuple[StateLayer, ...] = ()  # of layers that keep states, in their order
    shared: tuple[
        int, ...
    ] = ()  # the cache of each layer that attends to the keys and values of an earlier one
    axes: int = 1  # dimensions of a token's position: 3 where rows of images have one by their place (M-RoPE)

    @property
    def step_inputs(self) -> tuple[str, ...]:
        """Inputs that change every step, in graph order."""
        return (*STEP_INPUTS, *(STATE_INPUTS if self.states else ()))

    def past_names(self) -> list[str]:
        """Cache inputs in graph order: key then value of each layer."""
        return [f"past_{kind}.{layer}" for layer in range(len(self.cache)) for kind in ("key", "value")]

    def present_names(self) -> list[str]:
        """Cache outputs in graph order, one for each input in `past_names`."""
        return [name.replace("past_", "present_", 1) for name in self.past_names()]

    def shared_names(self) -> dict[str, str]:
        """Cache outputs of layers that share a cache, in graph order; they follow the caches -> the cache input."""
        return {
            f"shared_{kind}.{number}": f"past_{kind}.{cache}"
            for number, cache in enumerate(self.shared)
            for kind in ("key", "value")
        }

    def past_state_names(self) -> list[str]:
        """State inputs in graph order; they follow `STATE_INPUTS`."""
        return [f"past_state.{number}" for number in range(len(self.states))]

    def present_state_names(self) -> list[str]:
        """State outputs in graph order, one for each input in `past_state_names`; they follow the caches."""
        return [f"present_state.{number}" for number in range(len(self.states))]

    def kept(self) -> list[str]:
        """All outputs that are bound to the memory of an input, in graph order; they follow the logits."""
        return [*self.present_names(), *self.shared_names(), *self.present_state_names()]

    def written(self) -> dict[str, list[str]]:
        """Each input that is a cache or a state -> the outputs that are bound to its memory."""
        pasts = [*self.past_names(), *self.past_state_names()]
        presents = [*self.present_names(), *self.present_state_names()]
        found = {past: [present] for past, present in zip(pasts, presents, strict=True)}
        for output, past in self.shared_names().items():
            found[past].append(output)
        return found

    def factor_names(self) -> list[str]:
        """Adapter inputs in graph order: A then B of each socket, columns of the head for tokens of adapters' own, gains."""
        factors = [f"{socket.name}.{factor}" for socket in self.sockets for factor in ("A", "B")]
        own = None if self.ends is None else self.ends.own_columns
        return [*factors, *([] if own is None else [own]), *self.gain_sizes()]

    def gain_sizes(self) -> dict[str, int]:
        """Adapter inputs that scale, turn and shift layers, in graph order, and how many numbers each has."""
        ends, sizes = self.ends, dict[str, int]()
        if ends is None or not ends.has_gains:
            return sizes
        for socket in self.sockets:
            outer = socket.out_features
            there = {
                "gain": outer if socket.name != ends.head else 0,
                "turn": outer
                if ends.has_turns and socket.name != ends.head and not outer % ends.turn_group
                else 0,
                "shift": outer if socket.name in ends.shifts else 0,
                "inner": socket.in_features if socket.name in ends.inner else 0,
            }
            sizes |= {f"{socket.name}.{kind}": size for kind, size in there.items() if size}
        return sizes

    def without_gains(self) -> Signature:
        """Of the graph for steps whose adapters have no gains."""
        if self.ends is None:
            return self
        kinds = tuple(kind for kind in self.ends.kinds if kind not in ("gains", "turns"))
        return self.model_copy(update={"ends": self.ends.model_copy(update={"kinds": kinds})})

    def end_inputs(self) -> tuple[str, ...]:
        """Inputs of `Ends` that change every step, in graph order; they follow the factors."""
        if self.ends is None:
            return ()
        ones, gained = self.ends.has_biases, self.ends.has_gains
        return (*self.ends.step_inputs, *[LORA_ONES] * ones, *[LORA_GAINED] * gained)

    def cache_bytes_per_token(self, item_bytes: int = 4) -> int:
        """Bytes of cache for one token of one sequence, over all layers. item_bytes: of a number, 4 in float32."""
        return sum(item_bytes * layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in self.cache)

    def windowed_bytes_per_token(self, item_bytes: int = 4) -> int:
        """The part of these in layers whose queries see a window of keys."""
        layers = tuple(layer for layer in self.cache if layer.window)
        return self.model_copy(update={"cache": layers}).cache_bytes_per_token(item_bytes)

    @property
    def window(self) -> int:
        """Keys that a query sees at most in a layer that does not see all; 0 where every layer does."""
        return max((layer.window or 0 for layer in self.cache), default=0)

    def state_bytes(self) -> int:
        """Bytes of all states of one sequence."""
        return sum(state.size_bytes for state in self.states)


STEP_INPUTS = (
    "input_ids",
    "position_ids",
    "pad_indices",
    "unpad_indices",
    "seqlens_k",
    "query_seqlens",
    "capacity",
    "logits_indices",
    "lora_mask",
)
"""Inputs that change every step, in graph order; the caches and factors follow."""

STATE_INPUTS = ("state_pad_indices", "state_unpad_indices", "new_tokens")
"""The additional inputs of a graph whose layers keep states; they follow `STEP_INPUTS`."""

GROUPED_INPUTS = ("heads", "mask")
"""The additional inputs of a grouped graph."""


class EncoderSignature(BaseModel):
    """The signature of an encoder: one pass, no cache, hidden states as output. The head is the adapter's own graph.

    The body, graphs/PROFILE/model.onnx:

    Inputs                      type   shape              meaning
    input_ids                   int64  [batch, seq]       text: tokens, padded on the right (with any token)
    lengths                     int64  [batch]            text: tokens of each row
    token_type_ids              int64  [batch, seq]       text, if `type_ids` is set
    pixel_values                float  [batch, 3, H, W]   image, normalised
    lora_mask                      float  [batch, R]         which low-rank columns each row uses (0 or 1)
    SOCKET.A, SOCKET.B          float  [in, R], [R, out]  low-rank factors, B scaled; R = 0 is the bare base
      for a convolution                [R, in, kh, kw], [out, R, 1, 1]   (as in PEFT: a convolution, then a 1x1 one)

    Output: hidden float [batch, seq, width] (text) or [batch, channels, h, w] (convolutional image) or
    [batch, patches, width] (other image).

    The head, adapters/NAME/head.onnx: everything after the body's hidden states, pooler included, with that adapter's
    weights.

    Inputs: hidden as above and, for text, lengths int64 [batch]. Output: logits float [batch, labels], or
    [batch, seq, labels] for token classification.
    """

    model_config = ConfigDict(frozen=True)
    modality: Literal["text", "image"]
    context: int = 0  # longest sequence, in tokens; images: 0
    type_ids: bool = False
    prefix: str = ""  # precedes the socket's name in a PEFT file, e.g. "bert."
    sockets: tuple[Socket, ...]

    def step_inputs(self) -> list[str]:
        """Inputs that change with every batch, in graph order; the factors follow."""
        if self.modality == "image":
            return ["pixel_values", "lora_mask"]
        return ["input_ids", "lengths", *(["token_type_ids"] if self.type_ids else []), "lora_mask"]

    def factor_names(self) -> list[str]:
        """Adapter inputs in graph order: A then B of each socket."""
        return [f"{socket.name}.{factor}" for socket in self.sockets for factor in ("A", "B")]
