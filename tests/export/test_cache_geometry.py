"""Caches are what layers hand to attention; attention that cannot be exported is refused before it is traced."""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import pytest
import transformers
from support.bundles import tiny_bundle
from support.tiny_models import ALL, build
from torch import nn

from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.export.decoder import cache_geometry
from ptune.export.decoder.grouped_attention import SINK
from ptune.export.decoder.trace import cache_layers
from ptune.formats.bundle import GROUPED
from ptune.formats.signature import CacheLayer, Signature
from ptune.planning.exportable import check_exportable


def geometry(family: str) -> list[tuple[int, int]]:
    """Key heads, and how wide keys and values lie, of each cache."""
    layers = cache_layers(ALL[family]())
    assert all(layer.key_dim == layer.value_dim for layer in layers)
    return [(layer.kv_heads, layer.key_dim) for layer in layers]


def test_widths_and_heads_are_the_layers_own() -> None:
    assert geometry("llama") == [(2, 16), (2, 16)]
    assert geometry("gpt2") == [(4, 16), (4, 16)]
    assert geometry("minicpm3") == [(4, 24), (4, 24)]  # of 16 + 8 numbers a key, 12 a value
    assert geometry("gemma4_text") == [(2, 16), (2, 32)]  # four layers, of which two have none of their own
    assert geometry("lfm2") == [(2, 16)]  # four layers, of which three keep states


def test_layers_that_share_a_cache_write_it_in_place() -> None:
    layer = CacheLayer(kv_heads=2, key_dim=16, value_dim=16)
    signature = Signature(vocab_size=9, context=8, cache=(layer, layer), sockets=(), shared=(1,))
    assert signature.written() == {
        "past_key.0": ["present_key.0"],
        "past_value.0": ["present_value.0"],
        "past_key.1": ["present_key.1", "shared_key.0"],
        "past_value.1": ["present_value.1", "shared_value.0"],
    }
    assert signature.cache_bytes_per_token() == 2 * 2 * 2 * 16 * 4


def test_sinks_are_in_every_graph_and_no_heads_are_packed(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path, "gpt_oss")
    folder = bundle.graph_path().parent
    assert not (folder / GROUPED).exists()
    for path in folder.glob("*.onnx"):
        layers = [node for node in onnx_ir.load(path).graph if node.op_type == "GroupQueryAttention"]
        assert len(layers) == 2
        assert all(node.inputs[SINK].name.endswith("sinks") for node in layers)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention_mask": nn.Parameter()}, "takes a mask of its own"),
        ({"position_bias": nn.Parameter()}, "adds something to its scores"),
        ({"is_causal": False}, "sees later tokens"),
        ({"s_aux": nn.Parameter(), "softcap": 5.0}, "caps scores beside sinks"),
    ],
)
def test_attention_that_is_told_more_is_refused_before_weights_are_read(
    options: dict[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "llama", "llama")
    (folder / "model.safetensors").unlink()
    check_exportable(Backbone(model=str(folder)))
    plain = cache_geometry._see

    def told_more(
        module: nn.Module, q: object, k: object, v: object, mask: object, **given: object
    ) -> object:
        return plain(module, q, k, v, **{"attention_mask": mask, **given, **options})

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, cache_geometry.NAME, told_more)
    with pytest.raises(
        BackboneError, match=rf"cannot be exported to ONNX: .*LlamaAttention {reason}"
    ) as refused:
        check_exportable(Backbone(model=str(folder)))
    assert "\n" not in str(refused.value)


def test_a_model_that_stops_in_its_own_code_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "llama", "llama")

    def stop(*_: object, **__: object) -> None:
        raise KeyError("full_attention")

    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaMLP, "forward", stop)
    with pytest.raises(
        BackboneError, match=r"llama stops in its own code \(KeyError: 'full_attention'\); export a"
    ) as refused:
        check_exportable(Backbone(model=str(folder)))
    assert "\n" not in str(refused.value)
