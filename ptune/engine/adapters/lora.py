"""LoRA adapters as peft saves them (https://huggingface.co/docs/peft), as factors that the graph takes as inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.biases import read_biases, with_biases
from ptune.engine.adapters.ends import EndChanges, is_copy, read_ends
from ptune.engine.adapters.gains import read_gains
from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import (
    BIASES,
    GAINS,
    MERGE,
    PEFT_PREFIX,
    SOCKETS,
    LoraConfig,
    read_config,
)
from ptune.engine.adapters.prefix import FILE, Prefix, read_prefix, stands_before
from ptune.engine.adapters.safetensors import float32_bytes, read_tensors
from ptune.engine.adapters.source import Source, weights_file
from ptune.errors import AdapterError, FormatError
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Ends, Signature, Socket

Factor = npt.NDArray[np.float32]

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight")
_KINDS = (  # other tensors that an adapter's file may hold, by what their names contain
    ("lora_magnitude_vector", f"DoRA magnitudes: {GAINS}"),
    ("lora_embedding_", f"LoRA of an embedding, for which this bundle has no socket; {SOCKETS}"),
    ("token_adapter", f"embeddings of single tokens, for which this bundle has no sockets; {SOCKETS}"),
    ("modules_to_save", f"whole trained modules; {MERGE}"),
    (".bias", f"trained biases (bias is not 'none'): {BIASES}"),
)
_ENDS = (
    "lm_head",
    "embed_out",
    "embed_tokens",
    "wte",
)  # a decoder's first and last layers, which have sockets only where the bundle was exported with them
IGNORED = "adapter_config.json does not target these, so peft would ignore their factors"
POOLER = "pooler"  # a part of transformers' encoders that belongs to the head


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter's factors by socket: A [in, r] and B [r, out], with the scale already in B.

    For a convolution they are [r, in, kh, kw] and [out, r, 1, 1]. An adapter with only a head has none.
    """

    name: str
    rank: int  # the largest of its sockets
    factors: dict[str, tuple[Factor, Factor]]
    bytes: int
    ends: EndChanges | None = None  # what it changes at the ends of a decoder, beside its head's factors
    biased: bool = False  # the first rank of its factors is a bias (`ptune.engine.adapters.biases`)
    gains: Mapping[str, Factor] = field(
        default_factory=dict
    )  # by the graph's inputs (`ptune.engine.adapters.gains`)
    prefix: Prefix | None = None  # what it puts before every text, in place of factors
    invocation: tuple[
        int, ...
    ] = ()  # tokens from which on it acts, where they stand last in a prompt; none: it always does

    @property
    def is_update(self) -> bool:
        """Whether it only adds to what layers give, everywhere, so that it can be scaled: it brings no tokens of its own."""
        own = self.ends is not None and bool(len(self.ends.row_ids) or len(self.ends.column_ids))
        return self.prefix is None and not own and not self.invocation and not self.gains


def load_adapter(
    folder: Path,
    signature: Signature | EncoderSignature | Seq2SeqSignature,
    head: Mapping[str, tuple[int, ...]] | None = None,
) -> Adapter:
    """Reads a folder that peft's `save_pretrained` wrote.

    The head of an encoder's adapter is skipped here: it is a separate graph. `head` names the weights that the folder must
    still contain, with their shapes.
    Raises: AdapterError that lists everything about it that does not fit the base or cannot be served.
    """
    source = Source.folder(folder)
    if isinstance(signature, Signature) and stands_before(source):
        return standing_before(folder.name, read_prefix(folder, signature))
    return read_adapter(source, signature, head)


def standing_before(name: str, prefix: Prefix) -> Adapter:
    """An adapter of virtual tokens alone."""
    return Adapter(name, 0, {}, prefix.bytes, prefix=prefix)


def read_adapter(
    source: Source,
    signature: Signature | EncoderSignature | Seq2SeqSignature,
    head: Mapping[str, tuple[int, ...]] | None = None,
) -> Adapter:
    """The same of a LoRA from anywhere. Raises: AdapterError."""
    encodes = isinstance(signature, EncoderSignature)
    prefix = signature.prefix if isinstance(signature, EncoderSignature) else ""
    served = signature.ends if isinstance(signature, Signature) else None
    invoked = isinstance(signature, Signature)
    config, problems = read_config(source, with_head=encodes, ends=served, invoked=invoked)
    tensors = source.factors()
    misfits = Misfits(problems)
    if encodes:
        own = source.head()
        tensors, beyond = _parted(tensors, lambda name: of_head(name, prefix, own))
        _check_head(beyond, head or {}, misfits)
    tensors, ends, biases, gains = _beside_layers(tensors, config, signature, misfits)
    invocation = tuple(config.alora_invocation_tokens or ())
    if invocation and (ends is not None or gains):
        misfits.add(
            "aLoRA acts on layers alone, and not on the embedding, single tokens or gains", source.name
        )
    modules = _paired(tensors, misfits, needed=ends is None and not (biases or gains))
    sockets = {f"{prefix}{socket.name}": socket for socket in signature.sockets}
    _check(modules, config, sockets, misfits)
    misfits.raise_for(source.place)
    factors = {
        sockets[module].name: _scaled(pair, config.scale(module), sockets[module])
        for module, pair in modules.items()
    }
    if biases:
        factors = with_biases(factors, biases, sockets)
    ranks = [modules[module]["A"].shape[0] + bool(biases) for module in modules]
    return Adapter(
        name=source.name,
        rank=max([*ranks, int(bool(biases or gains)), 0 if ends is None else ends.rank]),
        factors=factors,
        bytes=sum(array.nbytes for pair in factors.values() for array in pair)
        + sum(gain.nbytes for gain in gains.values())
        + (0 if ends is None else ends.bytes),
        ends=ends,
        biased=bool(biases),
        gains=gains,
        invocation=invocation,
    )


def _beside_layers(
    tensors: dict[str, Factor],
    config: LoraConfig,
    signature: Signature | EncoderSignature | Seq2SeqSignature,
    misfits: Misfits,
) -> tuple[dict[str, Factor], EndChanges | None, dict[str, Factor], dict[str, Factor]]:
    """Takes what is no pair of a layer out of the tensors: changes of the ends, biases and gains, where there are sockets for it."""
    ends, biases, gains = None, dict[str, Factor](), dict[str, Factor]()
    if isinstance(signature, Signature) and signature.ends is not None:
        if signature.ends.has_biases:
            tensors, biases = read_biases(tensors, config, signature, misfits)
        if signature.ends.has_gains:
            tensors, gains = read_gains(tensors, signature, misfits)
        tensors, ends = read_ends(tensors, config, signature, misfits)
    return tensors, ends, biases, gains


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer's update, scale * B A."""

    a: Factor  # [r, in]
    b: Factor  # [out, r]
    scale: float


def pairs_of(folder: Path, asked: str) -> dict[str, Pair]:
    """The update of each linear layer by its name, of a LoRA on any base. asked: what is to be done with it, for the error.

    Raises: AdapterError that lists everything that is no update of a linear layer.
    """
    source = Source.folder(folder)
    config, problems = read_config(source)
    misfits = Misfits(problems)
    modules = _paired(source.factors(), misfits)
    for module, pair in modules.items():
        shapes = [pair[factor].shape for factor in "AB" if factor in pair]
        if len(shapes) < 2:
            misfits.add("one of the two factors is missing", module)
        elif any(len(shape) != 2 for shape in shapes):
            misfits.add("convolutions", module)
        elif not config.targets(module):
            misfits.add(IGNORED, module)
        elif shapes[0][0] != shapes[1][1] or shapes[0][0] != config.rank(module):
            misfits.add("their factors are not of the rank in adapter_config.json", module)
        elif not all(np.isfinite(pair[factor]).all() for factor in "AB"):
            misfits.add("values that are not finite", module)
    misfits.raise_for(source.place, asked)
    return {name: Pair(pair["A"], pair["B"], config.scale(name)) for name, pair in sorted(modules.items())}


def weights_of(folder: Path) -> dict[str, Factor]:
    """The tensors of a PEFT folder. Raises: AdapterError where they are missing, damaged or a pickle."""
    try:
        return read_tensors(weights_file(folder))
    except FormatError as error:
        raise AdapterError(str(error)) from None


def factor_bytes(folder: Path, ends: Ends | None = None) -> int:
    """Memory of a PEFT folder's tensors, in bytes, without copies of the base's ends. Raises: AdapterError, as `weights_of`."""
    try:
        source = Source.folder(folder)
        if stands_before(source):
            return float32_bytes(folder / FILE)
        whole = ends is None or bool(source.config.get("modules_to_save"))

        def counts(tensor: str) -> bool:
            return whole or ends is None or not is_copy(tensor, ends)

        return float32_bytes(weights_file(folder), counts)
    except FormatError as error:
        raise AdapterError(str(error)) from None


def of_head(tensor: str, prefix: str, own: Collection[str]) -> bool:
    """Whether a tensor of a PEFT file belongs to the head of an encoder, the pooler included.

    own: the modules that the adapter itself calls its head.
    """
    module = tensor.removeprefix(PEFT_PREFIX)
    if not module.startswith(prefix):
        return True
    return module.startswith((f"{prefix}{POOLER}.", *(f"{name}." for name in own)))


def _parted(
    tensors: dict[str, Factor], wanted: Callable[[str], bool]
) -> tuple[dict[str, Factor], dict[str, Factor]]:
    """Splits tensors into those that are not wanted and those that are."""
    picked = {name: tensor for name, tensor in tensors.items() if wanted(name)}
    return {name: tensor for name, tensor in tensors.items() if name not in picked}, picked


def _check_head(
    weights: dict[str, Factor], expected: Mapping[str, tuple[int, ...]], misfits: Misfits
) -> None:
    plain = {name.removeprefix(PEFT_PREFIX).replace(".modules_to_save.", "."): name for name in weights}
    for name, shape in expected.items():
        if name not in plain:
            misfits.add("it lacks weights of its head, which must be trained with it (modules_to_save)", name)
        elif weights[plain[name]].shape != shape:
            there = list(weights[plain[name]].shape)
            misfits.add(f"a weight of its head is {there}, its labels need {list(shape)}", name)
        elif not np.isfinite(weights[plain[name]]).all():
            misfits.add("its head has values that are not finite", name)


def _paired(
    tensors: dict[str, Factor], misfits: Misfits, *, needed: bool = True
) -> dict[str, dict[str, Factor]]:
    """Module -> {"A": [r, in], "B": [out, r]}."""
    modules: dict[str, dict[str, Factor]] = {}
    for name, tensor in tensors.items():
        found = _FACTOR.fullmatch(name)
        if found is None:
            kind = next(
                (kind for part, kind in _KINDS if part in name), f"tensors that are no LoRA factors; {MERGE}"
            )
            misfits.add(f"it holds {kind}", name)
        elif found["factor"] in modules.setdefault(found["module"], {}):
            misfits.add("it holds the same factor twice, under different adapter names", name)
        else:
            modules[found["module"]][found["factor"]] = tensor
    if needed and not modules:
        misfits.add("it holds no LoRA factors", "adapter_model.safetensors")
    return modules


def _check(
    modules: dict[str, dict[str, Factor]], config: LoraConfig, sockets: dict[str, Socket], misfits: Misfits
) -> None:
    """Compares the file's modules with what the base offers and with what adapter_config.json says."""
    folded = any(socket.kernel for socket in sockets.values())
    kinds = "linear layer or convolution" if folded else "linear layer"
    for module in modules:
        if module in sockets:
            _check_pair(module, sockets[module], modules[module], config, misfits)
        elif module.rpartition(".")[2] in _ENDS:
            misfits.add(f"LoRA of the output head, for which this bundle has no socket; {SOCKETS}", module)
        else:
            misfits.add(f"the base has no {kinds} of this name", module)
    for module in sockets:
        if module not in modules and config.target_modules is not None and config.targets(module):
            misfits.add("adapter_config.json targets these, but their factors are missing", module)


def _check_pair(
    module: str, socket: Socket, pair: dict[str, Factor], config: LoraConfig, misfits: Misfits
) -> None:
    if not config.targets(module):
        misfits.add(IGNORED, module)
    for factor, shape in zip("AB", _shapes(socket, config.rank(module)), strict=True):
        tensor = pair.get(factor)
        if tensor is None:
            misfits.add(f"lora_{factor} is missing", module)
        elif tensor.shape != shape:
            misfits.add(f"lora_{factor} is {list(tensor.shape)}, the base needs {list(shape)}", module)
        elif not np.isfinite(tensor).all():
            misfits.add(f"lora_{factor} has values that are not finite", module)


def _shapes(socket: Socket, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of A and B as peft saves them: for linear layers, or for a convolution and a 1x1 convolution."""
    if socket.kernel is None:
        return (rank, socket.in_features), (socket.out_features, rank)
    return (rank, socket.in_features, *socket.kernel), (socket.out_features, rank, 1, 1)


def _scaled(pair: dict[str, Factor], scale: float, socket: Socket) -> tuple[Factor, Factor]:
    """A and B as inputs of the graph, with the scale in B."""
    a, b = pair["A"], pair["B"] * np.float32(scale)
    if socket.kernel is None:
        a, b = a.T, b.T
    return np.ascontiguousarray(a), np.ascontiguousarray(b)
