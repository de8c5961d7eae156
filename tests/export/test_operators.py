"""Operators that torch's exporter cannot write."""

from __future__ import annotations

import onnx_ir
import onnxruntime
import torch
from support.tiny_models import model
from torch import Tensor, nn

from ptune.export.decoder.sockets import Socket, install
from ptune.export.decoder.trace import DYNAMIC, onnx_of


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x)


def test_the_inverse_of_the_error_function() -> None:
    x = torch.linspace(-0.999, 0.999, 2000).reshape(-1, 4)
    graph = onnx_of(Inverse(), (x,), ({0: DYNAMIC},), ["x"], ["y"], "inverse", optimize=False, along=())
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(graph).SerializeToString())
    (found,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), torch.erfinv(x), rtol=2e-6, atol=1e-6)


class Tanh(nn.Linear):
    """A layer that computes more than a linear one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


def test_a_layer_that_computes_more_takes_no_adapters() -> None:
    llama = model("llama")
    llama.model.layers[0].mlp.down_proj = Tanh(128, 64, bias=False)
    names = [socket.name for socket in install(llama, Socket)]
    assert len(names) == 2 * 7 - 1
    assert "model.layers.0.mlp.down_proj" not in names
    assert isinstance(llama.model.layers[0].mlp.down_proj, Tanh)
