"""The bundle folder, format 1: what `export` writes and the engine opens.

    manifest.json                   this file's Manifest
    graphs/PROFILE/model.onnx       the graph; its weights lie in model.onnx.data beside it
    graphs/PROFILE/encoder.onnx     of an encoder-decoder, instead: the encoder, and decoder.onnx, the decoder (ptune.formats.seq2seq)
    graphs/PROFILE/bare.onnx        of a decoder: the same without adapters' inputs, on the same weights
    graphs/PROFILE/in_groups.onnx   of a decoder whose heads share keys: the same for steps of few tokens a sequence; and
                                    in_groups_bare.onnx
    codec/                          tokenizer.json, codec.json, chat_template.jinja: text <-> tokens
    golden/golden.json              inputs and expected outputs of fp32, replayed at every start; PROFILE.json of others
    adapters/NAME/                  PEFT's own files, untouched, and adapter.json beside them; of an encoder head.onnx, too

Readers refuse another major format and ignore fields that they do not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from ptune.errors import FormatError
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Signature
from ptune.formats.whole_write import read_json, sha256_of, write_json

FORMAT = 1
BARE = "bare.onnx"  # beside a decoder's model.onnx: the same without sockets, on the same weights
GROUPED, GROUPED_BARE = "in_groups.onnx", "in_groups_bare.onnx"  # these with the grouped view of attention
FP32 = "fp32"  # the profile of float32, with which the others are compared
INT8 = "int8"  # a profile of decoders and encoders
INT4, NF4 = "int4", "nf4"  # profiles of decoders; nf4 of those that trained in nf4
BASE = "base"  # the name under which the bare base is served; no adapter may take it


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BaseIdentity(_Record):
    """Which weights an adapter was trained on: `hash` is over them as they stood, quantisation state included."""

    hash: str
    source: str  # what the user named: folder, hub id or package
    quantize: Literal["none", "int8", "nf4"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights that are not quantised
    revision: str | None = None  # on the hub
    architecture: str = ""
    parameters: int = 0
    licence: str = "unknown"


class Graph(_Record):
    """One profile's graph. `files` maps each file's path inside the bundle to its SHA-256."""

    profile: str
    files: dict[str, str]
    kept: float | None = None  # of int4: the share of its 4-bit blocks that are as the source has them
    least_tokens: int = 1  # of a step; with fewer a product would add in another order


class Hop(_Record):
    """One step of the way from training to serving, compared in numbers with the step before."""

    name: str  # e.g. "torch -> onnx + adapter"
    prompts: int
    positions: int  # token positions compared
    max_abs_logprob: float | None = None  # max |Δ log-softmax|; of a regression max |Δ| of its numbers
    mean_kl: float | None = None
    top1: float | None = None  # share of positions whose most likely token agrees
    liveness: float | None = None  # relative L2 of (adapter - base) here against there
    limit: str  # what it was held to, in words
    passed: bool
    note: str = ""


class AdapterRecord(_Record):
    """adapters/NAME/adapter.json: whose adapter this is, and how far it was proved."""

    format: int = FORMAT
    name: str
    task: str = "chat"  # or translation, {text,token,image}-classification, feature-extraction (vectors), text-ranking
    files: dict[str, str] = Field(default_factory=dict)  # file name -> SHA-256
    rank: int = 0  # largest over the sockets
    base: str | None = None  # BaseIdentity.hash it was trained on; None = unverified
    own_prompt: bool = False  # template and system below are its own; else it takes the bundle's
    template: str | None = None  # the chat template it was trained with
    system: str | None = None  # the system message put before conversations that have none
    labels: tuple[str, ...] = ()  # of a classifier: the outputs of its head, in order
    problem: Literal["", "single", "multi", "regression", "tags", "vector"] = ""
    max_length: int | None = None  # longest text of a classifier, in tokens; longer ones were cut in training
    preprocessing: dict[str, Any] | None = None  # of an image classifier: see ptune.codecs.image
    embedding: dict[str, Any] | None = (
        None  # of vectors: `width`, `pooling`, `normalize` and Matryoshka's `dimensions`
    )
    parity: Literal["measured", "unmeasured"] = "unmeasured"
    hops: tuple[Hop, ...] = ()
    translation: dict[str, Any] | None = None  # of what translates: columns and languages of its recipe
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


class Canary(_Record):
    """A second adapter that gets a share of an alias's requests."""

    name: str
    share: float = Field(gt=0, lt=1)


class Alias(_Record):
    """A name that stands for an adapter, or for another one tomorrow."""

    name: str
    canary: Canary | None = None
    previous: str | None = None  # what `name` was before; None where there was nothing


class Manifest(_Record):
    """manifest.json"""

    format: int = FORMAT
    created: str
    versions: dict[str, str]
    task: str = "chat"  # or encoder, whose adapters have tasks of their own, or seq2seq
    base: BaseIdentity
    signature: AnySignature
    graphs: dict[str, Graph]
    default_profile: str = FP32
    codec: dict[str, str]  # file -> SHA-256
    golden: dict[str, str]  # file -> SHA-256
    adapters: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256 of its adapter.json
    hops: tuple[Hop, ...] = ()
    aliases: dict[str, Alias] = Field(default_factory=dict)  # of a server's adapters


class Bundle:
    """A bundle folder, opened: its manifest and the places of its files. Reads nothing else until asked."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __repr__(self) -> str:
        """E.g. Bundle('bundles/mine', chat, adapters: mine)."""
        adapters = ", ".join(self.manifest.adapters) or "none"
        return f"Bundle({str(self.folder)!r}, {self.manifest.task}, adapters: {adapters})"

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Opens a bundle. Raises: FormatError where it is none, is damaged or is of another major format."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FormatError(f"no bundle at {folder}: make one with `ptune export RUN`")
        if not (folder / "manifest.json").is_file():
            raise FormatError(
                f"{folder} is not a bundle: it has no manifest.json (was its export interrupted?)"
            )
        return cls(folder, parse(Manifest, read_json(folder / "manifest.json"), folder / "manifest.json"))

    @property
    def decoder(self) -> Signature:
        """The signature of a chat bundle. Raises: FormatError where it is no decoder."""
        if not isinstance(self.manifest.signature, Signature):
            raise FormatError(
                f"{self.folder} is a bundle of an encoder or an encoder-decoder, not of a causal language model"
            )
        return self.manifest.signature

    @property
    def encoder(self) -> EncoderSignature:
        """The signature of an encoder's bundle. Raises: FormatError where it is a decoder."""
        if not isinstance(self.manifest.signature, EncoderSignature):
            raise FormatError(f"{self.folder} is a bundle of a model that writes, not one of an encoder")
        return self.manifest.signature

    @property
    def seq2seq(self) -> Seq2SeqSignature:
        """The signature of an encoder-decoder's bundle. Raises: FormatError where it is another model's."""
        if not isinstance(self.manifest.signature, Seq2SeqSignature):
            raise FormatError(f"{self.folder} is no bundle of an encoder-decoder")
        return self.manifest.signature

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces manifest.json whole; the last thing that any change of a bundle does."""
        write_json(self.folder / "manifest.json", manifest.model_dump(mode="json"))
        self.manifest = manifest

    def graph_path(self, profile: str | None = None) -> Path:
        """The ONNX file of a profile. Raises: FormatError that lists the profiles there are."""
        name = profile or self.manifest.default_profile
        if name not in self.manifest.graphs:
            raise FormatError(
                f"{self.folder} has no profile {name!r}; it has {', '.join(self.manifest.graphs)}"
            )
        return self.folder / "graphs" / name / "model.onnx"

    @property
    def codec_path(self) -> Path:
        return self.folder / "codec"

    @property
    def golden_path(self) -> Path:
        return self.folder / "golden" / "golden.json"

    def golden_file(self, profile: str) -> Path:
        """Where a profile's golden vectors lie."""
        return self.golden_path if profile == FP32 else self.golden_path.with_name(f"{profile}.json")

    def adapter_path(self, name: str) -> Path:
        return self.folder / "adapters" / name

    def adapter(self, name: str) -> AdapterRecord:
        """An adapter's record, its hash checked against the manifest. Raises: FormatError."""
        if name not in self.manifest.adapters:
            known = ", ".join(self.manifest.adapters) or "none"
            raise FormatError(f"{self.folder} has no adapter {name!r}; it has {known}")
        path = self.adapter_path(name) / "adapter.json"
        check_hash(path, self.manifest.adapters[name])
        return parse(AdapterRecord, read_json(path), path)

    def check_files(self, files: dict[str, str]) -> None:
        """Compares files (path inside the bundle -> SHA-256) with what lies on disk. Raises: FormatError."""
        for name, expected in files.items():
            check_hash(self.folder / name, expected)


def hashes(folder: Path, part: str = ".") -> dict[str, str]:
    """Path inside `folder` -> SHA-256, of every file under `part`."""
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], value: dict[str, Any], path: Path) -> Record:
    """Builds a record of a known major format. Raises: FormatError that names the file and the field."""
    found = value.get("format", FORMAT)
    if found != FORMAT:
        raise FormatError(f"{path} has format {found}; this ptune reads format {FORMAT}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("decoder", "encoder", "seq2seq"))
        raise FormatError(f"{path} is damaged: {place}: {first['msg']}") from None


def check_hash(path: Path, expected: str) -> None:
    """Raises: FormatError where the file is missing or its bytes are not those that were recorded."""
    if not path.is_file():
        raise FormatError(f"{path} is missing")
    if sha256_of(path) != expected:
        raise FormatError(f"{path} is damaged: its bytes are not those that the manifest records")
