"""Bundles of the tiny encoder-decoders with two adapters of different rank, and what transformers makes of a text."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from ptune.backbone.seq2seq import load_seq2seq, load_seq2seq_codec
from ptune.config.recipe import Backbone
from ptune.engine.seq2seq import golden
from ptune.engine.seq2seq.golden import Pair
from ptune.export.seq2seq.trace import trace_seq2seq
from ptune.export.seq2seq.write import write_seq2seq
from ptune.formats.bundle import BASE, Bundle
from ptune.methods.lora import Lora
from ptune.publish.golden import record_golden
from ptune.publish.seq2seq import EncoderDecoder, install_seq2seq
from support.seq2seq_models import build_seq2seq, tokenizer

SOURCES = ["Open the window.", "Save", "A longer text about the colour of the button in the settings."]
ADAPTERS = {"one": 4, "two": 7}  # their ranks
CONTEXT = 64  # tokens


@dataclass
class Made:
    family: str
    model: Path
    adapters: Path
    bundle: Bundle


def make(folder: Path, family: str) -> Made:
    """A bundle of its own for the caller, not proved; it is exported once in a session."""
    shutil.copytree(_exported(family), folder, dirs_exist_ok=True)
    return Made(family, folder / "model", folder / "adapters", Bundle.open(folder / "bundle"))


@functools.cache
def _exported(family: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ptune-seq2seq-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = build_seq2seq(folder / "model", family)
    spec = Backbone(model=str(model))
    loaded, codec = load_seq2seq(spec, device="cpu"), load_seq2seq_codec(spec)
    bundle = write_seq2seq(folder / "bundle", trace_seq2seq(loaded.model, CONTEXT), codec, loaded.identity)
    for seed, (name, rank) in enumerate(ADAPTERS.items()):
        adapter(model, folder / "adapters" / name, rank, seed)
        install_seq2seq(bundle, folder / "adapters" / name, name)
    pairs = [Pair(ids_of(text), ids_of(text[::-1])) for text in SOURCES]
    golden.save_pairs(pairs, bundle.folder)
    record_golden(EncoderDecoder.of_bundle(bundle, spec), bundle, threads=1)
    return folder


def adapter(model: Path, place: Path, rank: int, seed: int) -> None:
    """A folder as peft writes it, of an adapter that changes everything."""
    torch.manual_seed(seed)
    adapted = Lora(r=rank, alpha=2.0 * rank).apply(AutoModelForSeq2SeqLM.from_pretrained(model))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(place)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(tokenizer()(text).input_ids)


def generated(made: Made, name: str, text: str, most: int) -> tuple[int, ...]:
    """What transformers writes greedily, behind its start token."""
    model = AutoModelForSeq2SeqLM.from_pretrained(made.model).eval()
    live = model if name == BASE else PeftModel.from_pretrained(model, made.adapters / name).eval()
    ids = live.generate(
        input_ids=torch.tensor([ids_of(text)]), max_new_tokens=most, do_sample=False, num_beams=1
    )
    return tuple(ids[0].tolist()[1:])
