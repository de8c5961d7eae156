"""Mixtures of experts: a product for each expert, over the rows of the tokens that chose it.

transformers computes experts by the function that a config names (`ExpertsInterface`), so one function serves every family that
asks it; what lies between the products (gate, clamp, biases, norm) is the family's own code. A token that chose k experts is k
rows. Rows are put in order of their experts and cut into pieces, one an expert:

    source, expert, place, sizes = Routes(choices)             token and expert of each row; the row of each choice; rows an expert
    h = gate(ExpertProducts(x[source], sizes, W1) + b1[expert])
    y = ExpertProducts(h, sizes, W2) + b2[expert]
    out = sum over a token's choices: weight * y[place]

The two operators stand in the graph only while it is traced. `spell_out` makes plain ones of them, with a matrix of its own for
each expert. So a step takes the memory of the weights and of tokens * k rows, an expert that nobody chose reads no weights, and
what is known of products holds here, too: they become int8, int4 and nf4, and a row has the same bits whoever else is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ptune.export.rewrite import before, constant

NAME = "ptune_grouped"
DOMAIN, ROUTES, PRODUCTS = "ptune", "Routes", "ExpertProducts"


@dataclass(frozen=True)
class Part:
    """A matrix of the graph that is one expert's part of a weight."""

    whole: str  # the weight's name
    number: int  # of the expert
    turned: bool  # [out, in] in transformers


def grouped_experts(
    self: Any,
    hidden_states: Tensor,  # [tokens, hidden]
    top_k_index: Tensor,  # [tokens, k]
    top_k_weights: Tensor,  # [tokens, k]
) -> Tensor:
    """As transformers' `grouped_mm_experts_forward`. Returns [tokens, hidden]."""
    tokens, chosen = top_k_index.shape
    inner = "gate_up_proj" if self.has_gate else "up_proj"
    experts, rows = getattr(self, inner).shape[0], tokens * chosen
    source, expert, place, sizes = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{ROUTES}",
        [top_k_index],
        {"experts": experts, "chosen": chosen},
        version=1,
        dtypes=[torch.int64] * 4,
        shapes=[[rows], [rows], [rows], [experts]],
    )

    def product(x: Tensor, name: str) -> Tensor:
        weight = getattr(self, name)
        columns = weight.shape[-1 if self.is_transposed else -2]
        y = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{PRODUCTS}",
            [x, sizes, weight],
            {"turned": int(not self.is_transposed)},
            version=1,
            dtype=x.dtype,
            shape=[rows, columns],
        )
        return y + _rows(expert, getattr(self, f"{name}_bias")) if self.has_bias else y

    between = product(_rows(source, hidden_states), inner)
    between = self._apply_gate(between) if self.has_gate else self.act_fn(between)
    out = product(between, "down_proj")
    if self.has_post_expert_norm:
        out = self.post_expert_norm(out)
    # First choices first: along the first axis onnxruntime adds up in one order, along the second one in an order by their number.
    by_choice = _rows(place.reshape(tokens, chosen).t().reshape(-1), out).reshape(chosen, tokens, -1)
    return (by_choice * top_k_weights.t().unsqueeze(-1)).sum(dim=0).to(hidden_states.dtype)


def _rows(numbers: Tensor, of: Tensor) -> Tensor:
    """The rows of a matrix with these numbers."""
    return nn.functional.embedding(numbers, of)


def spell_out(model: onnx_ir.Model) -> dict[str, Part]:
    """Replaces both operators by plain ones, in place. Returns the parts of weights that the graph has instead, by name."""
    graph, parts = model.graph, dict[str, Part]()
    for node in [one for one in graph if one.domain == DOMAIN]:
        new = _routes(node) if node.op_type == ROUTES else [_products(node, parts)]
        for old, value in zip(node.outputs, new, strict=True):
            old.replace_all_uses_with(value)
        graph.remove(node, safe=True)
    for whole in {part.whole for part in parts.values()}:
        del graph.initializers[whole]
    model.opset_imports.pop(DOMAIN, None)
    return parts


def _routes(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """Routes, by sorting the choices, and then the order that came of it."""
    graph = node.graph
    assert isinstance(graph, onnx_ir.Graph)
    experts, chosen = (node.attributes.get_int(name, 0) for name in ("experts", "chosen"))
    source, expert, place, sizes = node.outputs
    (flat,) = before(
        node, "Reshape", [node.inputs[0], constant(graph, "experts.flat", np.array([-1]))], like=expert
    )
    (rows,) = before(node, "Shape", [flat])
    ascending = {"axis": 0, "largest": 0, "sorted": 1}
    sorted_, order = before(node, "TopK", [flat, rows], ascending, outputs=2, like=expert)
    _, found = before(node, "TopK", [order, rows], ascending, outputs=2)
    (token,) = before(
        node, "Div", [order, constant(graph, f"experts.chosen.{chosen}", np.array(chosen))], like=source
    )
    last = constant(graph, "experts.last", np.array([-1]))
    first = constant(graph, "experts.first", np.array([0]))
    (column,) = before(node, "Unsqueeze", [flat, last])
    numbers = constant(graph, f"experts.numbers.{experts}", np.arange(experts))
    (is_of,) = before(node, "Equal", [column, numbers])
    (ones,) = before(node, "Cast", [is_of], {"to": onnx_ir.DataType.INT64.value})
    (count,) = before(node, "ReduceSum", [ones, first], {"keepdims": 0}, like=sizes)
    found.shape, found.dtype = place.shape, onnx_ir.DataType.INT64
    return [token, sorted_, found, count]


def _products(node: onnx_ir.Node, parts: dict[str, Part]) -> onnx_ir.Value:
    """ExpertProducts, as Split, a MatMul for each expert, and Concat."""
    graph, (rows, sizes, weight) = node.graph, node.inputs
    assert isinstance(graph, onnx_ir.Graph)
    assert weight is not None
    held: Any = weight.const_value
    turned = bool(node.attributes.get_int("turned", 0))
    part = held.raw.detach()[0]
    part = part.T if turned else part
    experts, (width, columns) = int(held.shape[0]), part.shape
    pieces = before(node, "Split", [rows, sizes], {"axis": 0}, outputs=experts)
    made = []
    for number, piece in enumerate(pieces):
        piece.shape, piece.dtype = onnx_ir.Shape([None, width]), onnx_ir.DataType.FLOAT
        name = f"{weight.name}.{number}"
        tensor = type(held)(part, name=name)
        matrix = onnx_ir.Value(
            name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(matrix)
        parts[name] = Part(str(weight.name), number, turned)
        (product,) = before(node, "MatMul", [piece, matrix])
        product.shape, product.dtype = onnx_ir.Shape([None, columns]), onnx_ir.DataType.FLOAT
        made.append(product)
    (joined,) = before(node, "Concat", made, {"axis": 0}, like=node.outputs[0])
    return joined


@dataclass(frozen=True)
class Grouped:
    """The products of one layer's experts in a graph: their rows [rows, in], cut by a Split, and joined by a Concat."""

    split: onnx_ir.Node
    products: tuple[onnx_ir.Node, ...]
    joined: onnx_ir.Node

    @property
    def rows(self) -> onnx_ir.Value:
        value = self.split.inputs[0]
        assert value is not None
        return value

    @property
    def sizes(self) -> onnx_ir.Value:
        """The number of rows of each expert."""
        value = self.split.inputs[1]
        assert value is not None
        return value


def grouped_products(graph: onnx_ir.Graph) -> list[Grouped]:
    """All such groups, in the graph's order."""
    found = (_grouped(node) for node in graph if node.op_type == "Split" and len(node.inputs) == 2)
    return [group for group in found if group is not None]


def _grouped(split: onnx_ir.Node) -> Grouped | None:
    products, joined = [], set()
    for piece in split.outputs:
        users = list(piece.uses())
        product = users[0].node if len(users) == 1 else None
        if product is None or product.op_type != "MatMul" or product.inputs[1] is None:
            return None
        products.append(product)
        joined.update(product.successors())
    if len(joined) != 1 or split.attributes.get_int("axis", 0) != 0:
        return None
    (join,) = joined
    return Grouped(split, tuple(products), join) if join.op_type == "Concat" else None


_CHOICES = ("TopK", "ArgMax")  # of several experts, or of one after another, as in Phi's mixtures
_OTHERS = (
    "MatMul",
    "Gemm",
    "GroupQueryAttention",
    "Shape",
)  # behind which is no choice of a product before them


def chooses_experts(product: onnx_ir.Node) -> bool:
    """Whether a product is a router's: a choice is made of what it gives, before another product."""
    seen, queue = set[onnx_ir.Node](), [product]
    while queue:
        for after in queue.pop().successors():
            if after.op_type in _CHOICES:
                return True
            if after.op_type not in _OTHERS and after not in seen:
                seen.add(after)
                queue.append(after)
    return False


def without_routers(products: Iterable[onnx_ir.Node]) -> list[onnx_ir.Node]:
    """Those products that choose no experts."""
    return [product for product in products if not chooses_experts(product)]


def single(products: Iterable[onnx_ir.Node], groups: Iterable[Grouped]) -> list[onnx_ir.Node]:
    """Those products that are in none of the groups."""
    grouped = {product for group in groups for product in group.products}
    return [product for product in products if product not in grouped]


ALL_EXPERTS_FUNCTIONS.register(NAME, grouped_experts)
