"""Makes one operator of a decoder's attention: onnxruntime's GroupQueryAttention with the gathers around it.

The exporter writes a gather of flat tokens into rows, one a sequence, attention over a cache, and a gather back
(ptune.export.decoder.attention, ptune.export.fuse). `ptune::Attention` reads and writes flat tokens itself. It computes the same numbers
up to the rounding of float32, not the same bits: its sums have an order of their own, by which a query's bits depend on nothing
but its own sequence.
"""

from __future__ import annotations

import onnx_ir

from ptune_kernels.find import DOMAIN, MICROSOFT, made_by, only_user

PRODUCT = "GroupQueryAttention"
OPERATOR, INT8_OPERATOR = "Attention", "Int8Attention"
MARK = "ptune.attention"  # metadata of a graph whose attention was replaced
# Inputs of GroupQueryAttention.
QUERY, PAST_KEY, SEQLENS, COS, POSITIONS, SINK, KEY_SCALE, QUERY_SEQLENS = 0, 3, 5, 7, 9, 11, 12, 16
KNOWN = {
    QUERY,
    PAST_KEY,
    PAST_KEY + 1,
    SEQLENS,
    SEQLENS + 1,
    COS,
    COS + 1,
    POSITIONS,
    KEY_SCALE,
    KEY_SCALE + 1,
    QUERY_SEQLENS,
}
NUMBERS = {"num_heads", "kv_num_heads", "scale", "softcap", "local_window_size"}
# Attributes that the operator computes with one value alone.
FIXED: dict[str, object] = {
    "rotary_interleaved": 0, "smooth_softmax": 0, "qk_output": 0, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}  # fmt: skip
MOST_NUMBERS = 256  # of a head


def rewrite(graph: onnx_ir.Graph) -> int:
    """Rewrites all attention of a graph, and returns how many nodes it was. Nothing is changed where one is not as expected.

    All or nothing: layers of two kinds would need at least two queries in one and not in the other.
    """
    nodes = [node for node in graph if node.op_type == PRODUCT and node.domain == MICROSOFT]
    found = [_around(node) if _is_known(node) else None for node in nodes]
    if not all(found):
        return 0
    for node, around in zip(nodes, found, strict=True):
        assert around is not None
        _rewrite(node, *around)
    return len(nodes)


def _is_known(node: onnx_ir.Node) -> bool:
    """Whether the operator computes such attention: queries, keys and values side by side, whole heads, no biases."""
    given = {at for at, value in enumerate(node.inputs) if value is not None}
    int8 = KEY_SCALE in given
    past = [node.inputs[at] for at in (PAST_KEY, PAST_KEY + 1)]
    kind = onnx_ir.DataType.INT8 if int8 else onnx_ir.DataType.FLOAT
    rotary = node.attributes.get_int("do_rotary", 0)
    expected = KNOWN - ({KEY_SCALE, KEY_SCALE + 1} if not int8 else set())
    expected -= {COS, COS + 1, POSITIONS} if not rotary else set()
    attributes = {name: value.value for name, value in node.attributes.items() if name != "do_rotary"}
    fixed = all(FIXED.get(name) == value for name, value in attributes.items() if name not in NUMBERS)
    heads, keys = node.attributes.get_int("num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    return (
        given - {SINK} == expected
        and fixed
        and keys > 0
        and heads % keys == 0
        and int8 == ("kv_cache_bit_width" in attributes)
        and all(value is not None and value.dtype == kind and _width(value) <= MOST_NUMBERS for value in past)
    )


def _width(past: onnx_ir.Value) -> int:
    """Numbers of a head; more than any where they are not known."""
    width = None if past.shape is None else past.shape[-1]
    return width if isinstance(width, int) else MOST_NUMBERS + 1


def _around(node: onnx_ir.Node) -> tuple[onnx_ir.Node, onnx_ir.Node] | None:
    """The gather of tokens into rows, and the one back; None where they are others."""
    into = made_by(node.inputs[QUERY], "Gather")
    shaped = only_user(node.outputs[0], "Reshape")
    back = None if shaped is None else only_user(shaped.outputs[0], "Gather")
    if into is None or shaped is None or back is None or shaped.inputs[0] is not node.outputs[0]:
        return None
    known = (
        len(into.inputs) == len(back.inputs) == 2
        and back.inputs[0] is shaped.outputs[0]
        and not any(one.attributes.get_int("axis", 0) for one in (into, back))
        and (node.inputs[POSITIONS] is into.inputs[1] if len(node.inputs) > POSITIONS and node.inputs[POSITIONS] else True)
        and _rank(back.inputs[1]) == 1
        and _rank(into.inputs[1]) == 2
    )  # fmt: skip
    return (into, back) if known else None


def _rank(value: onnx_ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _rewrite(node: onnx_ir.Node, into: onnx_ir.Node, back: onnx_ir.Node) -> None:
    int8 = len(node.inputs) > KEY_SCALE and node.inputs[KEY_SCALE] is not None
    rotary = node.attributes.get_int("do_rotary", 0)
    heads, width = node.attributes.get_int("num_heads", 0), _width(node.inputs[PAST_KEY])
    last, lines = _without_shapes(back, into.inputs[0], heads * width)
    inputs = [
        lines,
        *node.inputs[PAST_KEY : SEQLENS + 1],
        node.inputs[QUERY_SEQLENS],
        into.inputs[1],
        back.inputs[1],
    ]
    inputs += node.inputs[KEY_SCALE : KEY_SCALE + 2] if int8 else []
    inputs += [_unpadded(table) for table in node.inputs[COS : COS + 2]] if rotary else []
    sinks = node.inputs[SINK] if len(node.inputs) > SINK else None
    inputs += [] if sinks is None else [sinks]
    attributes = {
        "heads": heads,
        "kv_heads": node.attributes.get_int("kv_num_heads", 0),
        "window": max(0, node.attributes.get_int("local_window_size", -1)),
        "scale": node.attributes.get_float("scale", 0.0) or width**-0.5,
        "softcap": node.attributes.get_float("softcap", 0.0),
        "rotary": rotary,
        "sinks": int(sinks is not None),
    }
    kind = INT8_OPERATOR if int8 else OPERATOR
    new = onnx_ir.node(kind, inputs, attributes, domain=DOMAIN, num_outputs=3)
    new.name = f"{node.name}.own"
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, new)
    for old, made in zip([last.outputs[0], *node.outputs[1:]], new.outputs, strict=True):
        made.dtype, made.shape = old.dtype, old.shape
        if old.is_graph_output():
            made.name, old.name = old.name, None
        old.replace_all_uses_with(made, replace_graph_outputs=True)


def _without_shapes(
    back: onnx_ir.Node, lines: onnx_ir.Value | None, width: int
) -> tuple[onnx_ir.Node, onnx_ir.Value | None]:
    """The last node that the operator replaces, and its lines: without the reshapes around it, where tokens lie alike in both."""
    flat, shaped = made_by(lines, "Reshape"), only_user(back.outputs[0], "Reshape")
    if flat is None or shaped is None or shaped.inputs[0] is not back.outputs[0] or lines is None:
        return back, lines
    before, after = _leading(flat.inputs[0]), shaped.outputs[0].shape
    if before is None or after is None or [str(size) for size in after] != [*before, str(width)]:
        return back, lines
    of_token = lines.shape is not None and len(lines.shape) == 2 and "None" not in before
    whole = flat.inputs[0] is not None and (
        flat.inputs[0].shape is None
        or (lines.shape is not None and flat.inputs[0].shape[-1] == lines.shape[-1])
    )
    return (shaped, flat.inputs[0]) if of_token and whole else (back, lines)


def _leading(lines: onnx_ir.Value | None) -> list[str] | None:
    """How tokens lie in `lines`, by the names of its dimensions; of a product, as in what it multiplies."""
    while lines is not None and lines.shape is None:
        made = lines.producer()
        if made is None or not (made.domain == DOMAIN or made.op_type == "SimplifiedLayerNormalization"):
            return None
        lines = made.inputs[0]
    return None if lines is None or lines.shape is None else [str(size) for size in lines.shape[:-1]]


def _unpadded(table: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """The table of angles without the lines that were added behind it, for an operator that wants a line for each position."""
    pad = made_by(table, "Pad")
    mode = None if pad is None else pad.attributes.get_string("mode", "constant")
    return table if pad is None or mode != "constant" else pad.inputs[0]
