"""The bundle folder, format 1: written by `ptune export`, opened by the engine.

    manifest.json                   this file's Manifest
    graphs/PROFILE/model.onnx       the graph; its weights are in model.onnx.data beside it
    graphs/PROFILE/encoder.onnx     encoder-decoders instead have this and decoder.onnx (ptune.formats.seq2seq)
    graphs/PROFILE/bare.onnx        decoders, and images with adapters: the graph without adapter inputs, on the same weights
    graphs/PROFILE/in_groups.onnx   decoders whose heads share keys: the graph for steps with few tokens per sequence; with
                                    in_groups_bare.onnx
    graphs/PROFILE/int8_cache.onnx  decoders, if asked for: the graph with keys and values in int8, on the same weights; with
                                    int8_cache_bare.onnx, and the scales of both
    codec/                          tokenizer.json, codec.json, chat_template.jinja: text <-> tokens
    golden/golden.json              inputs and expected outputs of fp32, replayed at every start; PROFILE.json for others, and
                                    PROFILE.int8_cache.json; with .own before .json those by own attention
    vision/features.onnx            decoders that see images: from pixels to rows of features (ptune.export.decoder.image_features)
    adapters/NAME/                  PEFT's own files, unchanged, and adapter.json beside them; for encoders also head.onnx; of
                                    an adapter that was folded into LoRA, that LoRA, and its own files in original/; of
                                    one with virtual tokens, their keys and values in prefix.safetensors

Readers refuse another major format and ignore unknown fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from ptune.errors import FormatError
from ptune.formats.request_defaults import NO_DEFAULTS, RequestDefaults
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Signature
from ptune.formats.whole_write import read_json, sha256_of, write_json

FORMAT = 1
BARE = "bare.onnx"  # beside model.onnx: the graph without sockets, on the same weights
GROUPED, GROUPED_BARE = "in_groups.onnx", "in_groups_bare.onnx"  # both graphs with grouped attention
NO_GAINS, GROUPED_NO_GAINS = (
    "no_gains.onnx",
    "in_groups_no_gains.onnx",
)  # with sockets, for adapters without gains
INT8_CACHE, INT8_CACHE_BARE = "int8_cache.onnx", "int8_cache_bare.onnx"  # keys and values in int8
INT8_CACHE_NO_GAINS = "int8_cache_no_gains.onnx"
INT8_CACHE_SCALES = "int8_cache_scales.safetensors"  # cache input -> [kv_heads, dim]
VISION = "vision/features.onnx"  # from images to what takes the place of embeddings
CacheType = Literal["float32", "int8"]
"""Type of the keys and values that a decoder keeps, by numpy's name."""
FLOAT_CACHE: CacheType = "float32"  # which every decoder's profile has a graph for
FP32 = "fp32"  # the float32 profile
INT8 = "int8"  # for decoders and encoders
INT4, NF4 = "int4", "nf4"  # for decoders; nf4 if trained in nf4
BASE = "base"  # the name under which the bare base is served; no adapter may take it
Stored = Literal["gptq", "awq", "fp8", "compressed-tensors", "mxfp4"]
"""How ready-made checkpoints hold their weights, by `quant_method` in their configs (`ptune.backbone.packed`)."""
Quantized = Literal["none", "int8", "nf4", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"]
"""How a base holds its weights: as numbers, as bitsandbytes packs them, or as `Stored`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BaseIdentity(_Record):
    """The weights that an adapter was trained on. `hash` covers them as trained on, with the quantisation state."""

    hash: str
    source: str  # as the user named it: folder, hub id or package
    quantize: Quantized = "none"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # type of the weights that are not quantised
    revision: str | None = None  # on the hub
    architecture: str = ""
    parameters: int = 0
    licence: str = "unknown"
    keep_layers: tuple[int, ...] = ()  # of `source`, where only some are left
    context: int | None = None  # longest sequence that was asked for, by which rotary frequencies are chosen


class Graph(_Record):
    """One profile's graph. `files` maps each file's path inside the bundle to its SHA-256."""

    profile: str
    files: dict[str, str]
    kept: float | None = None  # int4: the share of 4-bit blocks taken unchanged from the source
    least_tokens: int = 1  # fewest tokens in a step; with fewer, a product would add in another order
    kv_caches: tuple[CacheType, ...] = ()  # types of keys and values that it has graphs for beside float32


class Hop(_Record):
    """One step on the way from training to serving, compared in numbers with the step before."""

    name: str  # e.g. "torch -> onnx + adapter"
    prompts: int
    positions: int  # token positions compared
    max_abs_logprob: float | None = None  # max |Δ log-softmax|; for a regression max |Δ| of its numbers
    mean_kl: float | None = None
    top1: float | None = None  # share of positions whose most likely token agrees
    liveness: float | None = None  # relative L2 difference of (adapter - base) between both sides
    limit: str  # the limits, in words
    passed: bool
    note: str = ""
    form: str = (
        ""  # own operators that it is about (ptune.engine.decoder.forms); beyond its limit they are not used
    )


class NewToken(_Record):
    """A token that an adapter's tokenizer has and the base's has not."""

    id: int = Field(ge=0)
    text: str = Field(min_length=1)
    special: bool = False  # left out where answers are decoded


class Folded(_Record):
    """What an adapter was before it was folded into LoRA pairs. Its own files are in original/ beside them."""

    method: str  # its peft_type; with the initialisation where that is what was folded
    sha256: str  # of its own adapter_model.safetensors
    rank: int | None = None  # that updates were cut to; None: the pairs are exact, but for rounding
    error: float | None = (
        None  # what the cut lost of all updates that it concerns: relative error, Frobenius norm
    )
    errors: dict[str, float] = Field(default_factory=dict)  # and of each layer


class AdapterRecord(_Record):
    """adapters/NAME/adapter.json: what the adapter is for, and how it was proved."""

    format: int = FORMAT
    name: str
    task: str = "chat"  # or translation, {text,token,image}-classification, feature-extraction (vectors), text-ranking
    files: dict[str, str] = Field(default_factory=dict)  # file name -> SHA-256
    rank: int = 0  # largest over the sockets
    virtual_tokens: int = 0  # that it puts before every text
    in_sums: bool = (
        True  # whether it can be a part of a sum: not with tokens of its own, or with an invocation
    )
    invocation: tuple[int, ...] = ()  # aLoRA: tokens that it acts from on, where they stand last in a prompt
    folded: Folded | None = None  # None: it is LoRA as PEFT saved it
    vocab_size: int | None = None  # tokens that it knows, if it brings some that the base lacks
    new_tokens: tuple[NewToken, ...] = ()  # tokens that the base's tokenizer lacks
    base: str | None = None  # BaseIdentity.hash it was trained on; None = unverified
    own_prompt: bool = False  # True: use the three fields below; False: use the bundle's
    template: str | None = None  # the chat template it was trained with
    system: str | None = None  # the system message for conversations that have none
    defaults: RequestDefaults = NO_DEFAULTS  # what a request asks for unless it says otherwise
    labels: tuple[str, ...] = ()  # classifiers: the outputs of the head, in order
    problem: Literal["", "single", "multi", "regression", "tags", "vector"] = ""
    step_separator: str | None = None  # process reward models: what follows each step
    max_length: int | None = None  # classifiers: longest text, in tokens; longer ones were cut in training
    preprocessing: dict[str, Any] | None = None  # image classifiers: see ptune.codecs.image
    embedding: dict[str, Any] | None = None  # embedders: `width`, `pooling`, `normalize`, `dimensions`
    parity: Literal["measured", "unmeasured"] = "unmeasured"
    hops: tuple[Hop, ...] = ()
    translation: dict[str, Any] | None = None  # translators: columns and languages of the recipe
    added: str = ""  # ISO date


def _kind(signature: Any) -> str:
    if isinstance(signature, Seq2SeqSignature) or (
        isinstance(signature, dict) and signature.get("kind") == "seq2seq"
    ):
        return "seq2seq"
    encoder = isinstance(signature, EncoderSignature) or (
        isinstance(signature, dict) and "modality" in signature
    )
    return "encoder" if encoder else "decoder"


AnySignature = Annotated[
    Annotated[Signature, Tag("decoder")]
    | Annotated[EncoderSignature, Tag("encoder")]
    | Annotated[Seq2SeqSignature, Tag("seq2seq")],
    Discriminator(_kind),
]


class ByUsers(_Record):
    """Users' scores decide, which are from 0 to 1."""

    margin: float = Field(
        default=0.05, ge=0, lt=1
    )  # by so much the canary may be worse and still be promoted
    error: float = Field(
        default=0.05, gt=0, lt=0.5
    )  # chance that the decision is wrong, at whatever time it falls


class ByLoss(_Record):
    """The loss on held-out texts decides. Fields that both have as of `ByUsers`."""

    texts: str = Field(min_length=1, max_length=4096)  # a file below the server's --adapter-root
    train_on: Literal["assistant", "last"] = "assistant"  # which answers count, as in a recipe
    margin: float = Field(default=0.02, ge=0, lt=1)  # nats per token
    error: float = Field(default=0.05, gt=0, lt=0.5)


class Decide(_Record):
    """What promotes a canary or rolls it back: whichever is certain first."""

    users: ByUsers | None = None
    loss: ByLoss | None = None


class Canary(_Record):
    """A second adapter that receives a share of an alias's requests. decide: None = a person moves the alias."""

    name: str
    share: float = Field(gt=0, lt=1)
    decide: Decide | None = None


class Alias(_Record):
    """A name that stands for an adapter and can be moved to another."""

    name: str
    canary: Canary | None = None
    previous: str | None = None  # the former `name`, if any


class Manifest(_Record):
    """manifest.json"""

    format: int = FORMAT
    created: str
    versions: dict[str, str]
    task: str = "chat"  # or seq2seq, or encoder, whose adapters have their own tasks
    base: BaseIdentity
    signature: AnySignature
    graphs: dict[str, Graph]
    default_profile: str = FP32
    codec: dict[str, str]  # file -> SHA-256
    golden: dict[str, str]  # file -> SHA-256
    vision: dict[str, str] = Field(default_factory=dict)  # of a decoder that sees images: file -> SHA-256
    adapters: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256 of its adapter.json
    hops: tuple[Hop, ...] = ()
    aliases: dict[str, Alias] = Field(default_factory=dict)  # alias -> adapter, for servers


def _what_instead(folder: Path) -> str:
    """What to do about a folder that is no bundle."""
    if (folder / "run.json").is_file():
        return f"it is a run; `ptune export {folder}` makes a bundle of it"
    return "if its export was interrupted, export it again: `ptune export RUN`"


class Bundle:
    """An opened bundle folder: its manifest and the paths of its files, which are read on demand."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __repr__(self) -> str:
        """The bundle in short: Bundle('bundles/mine', chat, adapters: mine)."""
        adapters = ", ".join(self.manifest.adapters) or "none"
        return f"Bundle({str(self.folder)!r}, {self.manifest.task}, adapters: {adapters})"

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Opens a bundle. Raises: FormatError if the folder is not a bundle, is damaged or has another major format."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FormatError(f"no bundle at {folder}: make one with `ptune export RUN`")
        if not (folder / "manifest.json").is_file():
            raise FormatError(f"{folder} is not a bundle, it has no manifest.json: {_what_instead(folder)}")
        return cls(folder, parse(Manifest, read_json(folder / "manifest.json"), folder / "manifest.json"))

    @property
    def decoder(self) -> Signature:
        """The signature of a chat bundle. Raises: FormatError if it holds no decoder."""
        if not isinstance(self.manifest.signature, Signature):
            raise FormatError(
                f"{self.folder} is a bundle of an encoder or an encoder-decoder, not of a causal language model:"
                f" `ptune serve {self.folder}` says what it can do"
            )
        return self.manifest.signature

    @property
    def encoder(self) -> EncoderSignature:
        """The signature of an encoder's bundle. Raises: FormatError if it holds a decoder."""
        if not isinstance(self.manifest.signature, EncoderSignature):
            raise FormatError(
                f"{self.folder} is a bundle of a generating model, not of an encoder: `ptune serve {self.folder}` says what it"
                " can do"
            )
        return self.manifest.signature

    @property
    def seq2seq(self) -> Seq2SeqSignature:
        """The signature of an encoder-decoder's bundle. Raises: FormatError if it holds another kind of model."""
        if not isinstance(self.manifest.signature, Seq2SeqSignature):
            raise FormatError(f"{self.folder} is not a bundle of an encoder-decoder")
        return self.manifest.signature

    @property
    def reference(self) -> str:
        """The profile that is compared with torch, and the others with it: fp32; nf4 in a bundle that was made without fp32."""
        return FP32 if FP32 in self.manifest.graphs else NF4

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces manifest.json atomically: the last step of every change to a bundle."""
        write_json(self.folder / "manifest.json", manifest.model_dump(mode="json"))
        self.manifest = manifest

    def graph_bytes(self, profile: str) -> int:
        """Bytes of a profile's files on disk. Raises: FormatError as `graph_path`, or where one is missing."""
        self.graph_path(profile)
        try:
            return sum((self.folder / name).stat().st_size for name in self.manifest.graphs[profile].files)
        except FileNotFoundError as error:
            raise FormatError(f"{error.filename} is missing") from None

    def graph_path(self, profile: str | None = None, cache: CacheType = FLOAT_CACHE) -> Path:
        """The ONNX file of a profile. cache: type of a decoder's keys and values.

        Raises: FormatError that lists the bundle's profiles, or says that this one has no such cache.
        """
        name = profile or self.manifest.default_profile
        if name not in self.manifest.graphs:
            raise FormatError(
                f"{self.folder} has no profile {name!r}; it has {', '.join(self.manifest.graphs)}, and `ptune export RUN"
                f" --profiles {name}` makes a bundle with it"
            )
        if cache != FLOAT_CACHE and cache not in self.manifest.graphs[name].kv_caches:
            raise FormatError(
                f"{self.folder} has no graph of {name} with keys and values in {cache}:"
                f" export it with --kv-cache-dtype {cache}"
            )
        return self.folder / "graphs" / name / ("model.onnx" if cache == FLOAT_CACHE else INT8_CACHE)

    @property
    def vision_path(self) -> Path | None:
        """The graph from images to features; None where the model sees none."""
        return self.folder / VISION if self.manifest.vision else None

    @property
    def codec_path(self) -> Path:
        return self.folder / "codec"

    @property
    def golden_path(self) -> Path:
        return self.folder / "golden" / "golden.json"

    def golden_file(self, profile: str, cache: CacheType = FLOAT_CACHE, *, own: bool = False) -> Path:
        """The path of a profile's golden vectors. own: of those by own attention."""
        if cache != FLOAT_CACHE:
            path = self.golden_path.with_name(f"{profile}.{cache}_cache.json")
        else:
            path = self.golden_path if profile == FP32 else self.golden_path.with_name(f"{profile}.json")
        return path.with_suffix(".own.json") if own else path

    def adapter_path(self, name: str) -> Path:
        return self.folder / "adapters" / name

    def adapter(self, name: str) -> AdapterRecord:
        """An adapter's record, checked against its hash in the manifest. Raises: FormatError."""
        if name not in self.manifest.adapters:
            known = ", ".join(self.manifest.adapters) or "none"
            raise FormatError(
                f"{self.folder} has no adapter {name!r}; it has {known}, and `ptune add {self.folder} ADAPTER --name {name}` adds it"
            )
        path = self.adapter_path(name) / "adapter.json"
        check_hash(path, self.manifest.adapters[name])
        return parse(AdapterRecord, read_json(path), path)

    def check_files(self, files: dict[str, str]) -> None:
        """Checks files on disk against their hashes (path inside the bundle -> SHA-256). Raises: FormatError."""
        for name, expected in files.items():
            check_hash(self.folder / name, expected)


def hashes(folder: Path, part: str = ".") -> dict[str, str]:
    """Path inside `folder` -> SHA-256, for every file under `part`."""
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], value: dict[str, Any], path: Path) -> Record:
    """Parses a record of the supported major format. Raises: FormatError that names the file and the field."""
    file_format = value.get("format", FORMAT)
    if file_format != FORMAT:
        raise FormatError(f"{path} has format {file_format}; this ptune reads format {FORMAT}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("decoder", "encoder", "seq2seq"))
        raise FormatError(f"{path} is damaged: {place}: {first['msg']}") from None


def check_hash(path: Path, expected: str) -> None:
    """Raises: FormatError if the file is missing or its bytes differ from the recorded hash."""
    if not path.is_file():
        raise FormatError(f"{path} is missing")
    if sha256_of(path) != expected:
        raise FormatError(f"{path} is damaged: its bytes differ from those that the manifest records")
