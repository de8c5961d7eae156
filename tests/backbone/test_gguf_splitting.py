"""A tokenizer out of a GGUF file makes the tokens that llama.cpp makes of the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import gguf_file, tiny_models
from tokenizers import Tokenizer

from ptune.backbone.gguf_splitting import split_as_in, splitting_of
from ptune.backbone.load import load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone
from ptune.export.gguf.vocabulary import vocabulary_of
from ptune.export.gguf.write import write_carrier
from ptune.llama_cpp.library import Llama, required_library

NAMES = (
    "codeshell", "command-r", "exaone", "falcon3", "hunyuan", "llama-bpe", "llama3", "pixtral", "qwen2", "refact", "smollm",
    "stablelm2", "starcoder",
)  # fmt: skip
ALPHABET = "ab Zé12345 \t\n\r'sSreLL.,!?-+_你٣½ſ"


def codec() -> ChatCodec:
    tiny = tiny_models.tokenizer()
    backend = Tokenizer.from_str(tiny.backend_tokenizer.to_str())
    return ChatCodec(backend, tiny.chat_template, tiny.special_tokens_map, (), None)


@pytest.fixture(scope="module", params=NAMES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tokenizer, Llama]]:
    """Ours and llama.cpp's tokenizer of a file that names its way of splitting."""
    file = tmp_path_factory.mktemp("carrier") / "carrier.gguf"
    own = codec()
    write_carrier(file, vocabulary_of(own, own.vocab_size), request.param)
    split_as_in(file, own.tokenizer)
    llama = Llama(required_library(), file, 1, 0, 0)
    yield own.tokenizer, llama
    llama.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(text=st.text(st.sampled_from(ALPHABET), max_size=24))
def test_any_text_is_split_as_llama_cpp_splits_it(both: tuple[Tokenizer, Llama], text: str) -> None:
    ours, llama = both
    assert ours.encode(text, add_special_tokens=False).ids == llama.tokenize(text, special=False)


def test_a_models_numbers_are_the_tokens_that_it_was_trained_on(tmp_path: Path) -> None:
    said = {}
    for name in ("smollm", "gpt-2"):
        file = tmp_path / name / "model.gguf"
        file.parent.mkdir()
        gguf_file.write(file, pre=name)
        said[name] = load_codec(Backbone(model=str(file))).encode_text("x 2026", special=False)
    assert len(said["smollm"]) >= len(said["gpt-2"])
    pieces = codec()
    pieces.tokenizer.pre_tokenizer = splitting_of("smollm")
    assert said["smollm"] == pieces.encode_text("x 2026", special=False)


def test_a_way_that_is_not_known_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = codec()
    before = own.tokenizer.to_str()
    file = tmp_path / "a.gguf"
    write_carrier(file, vocabulary_of(own, own.vocab_size), "gpt-2")
    split_as_in(file, own.tokenizer)
    assert capsys.readouterr() == ("", "")
    file.unlink()
    write_carrier(file, vocabulary_of(own, own.vocab_size), "tekken")
    split_as_in(file, own.tokenizer)
    told = capsys.readouterr()
    assert "a.gguf splits text as 'tekken'" in told.out + told.err
    assert own.tokenizer.to_str() == before
