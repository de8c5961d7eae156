"""A bundle as a library: text in, text out, streamed or whole, with stop texts that are never half shown."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models
from support.fake_chat_model import wait_until
from support.tiny_bundle import TinyBundle, make

import ptune
from ptune.codecs.chat import ChatCodec
from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.request import NO_TOKEN, Token
from ptune.errors import FormatError, PtuneError, RequestError
from ptune.formats.bundle import Bundle
from ptune.formats.request_defaults import RequestDefaults
from ptune.formats.whole_write import sha256_of, write_json
from ptune.tasks.chat.infer import ChatModel, load
from ptune.tasks.chat.offline import answer_all
from ptune.tasks.chat.text_stream import Delta, TextStream

MESSAGES = [{"role": "user", "content": "Define love."}]
SHOUTED = (
    "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"  # the template of `narrow`
)


class Pieces:
    """A codec whose token n is the n-th piece of a text; each piece comes a token late, the last with `finish`."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self.shown: Collection[int] = ()

    def stream(self, shown: Collection[int] = (), after: int | None = None) -> Pieces:
        self._late = ""
        return self

    def push(self, token: int) -> str:
        text, self._late = self._late, self._pieces[token]
        return text

    def finish(self) -> str:
        text, self._late = self._late, ""
        return text


def streamed(pieces: list[str], stop: list[str], min_tokens: int = 0) -> list[Delta]:
    stream = TextStream(Pieces(pieces), stop, min_tokens=min_tokens)
    tokens = [*map(Token, range(len(pieces))), Token(NO_TOKEN, finish="length")]
    return [delta for token in tokens for delta in stream.push(token)]


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_text_is_cut_before_the_stop_text_that_is_complete_first(pieces: list[str], stop: list[str]) -> None:
    """However the text is cut into tokens."""
    deltas = streamed(pieces, stop)
    text = "".join(pieces)
    places = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(places)[1]] if places else text
    assert "".join(delta.text for delta in deltas) == expected
    assert [delta.finish for delta in deltas] == [None] * (len(deltas) - 1) + ["stop" if places else "length"]
    shown = ""
    for index, delta in enumerate(deltas[:-1]):  # only what a stop text begins with is held back
        shown += delta.text
        held = "".join(pieces[:index]).removeprefix(shown)
        assert held == "" or any(s.startswith(held) for s in stop)


@given(
    pieces=st.lists(st.text("abc", max_size=3), max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    least=st.integers(0, 12),
)
def test_a_stop_text_counts_only_where_a_later_token_completes_it(
    pieces: list[str], stop: list[str], least: int
) -> None:
    """Pieces come a token late here, so `least` tokens bring `least` - 1 of them."""
    early = "".join(pieces[: max(least - 1, 0)])
    text = "".join(pieces)
    ends = [
        (end, end - len(s))
        for s in stop
        for end in range(len(early) + 1, len(text) + 1)
        if text[:end].endswith(s)
    ]
    deltas = streamed(pieces, stop, least)
    assert "".join(delta.text for delta in deltas) == (text[: min(ends)[1]] if ends else text)
    assert deltas[-1].finish == ("stop" if ends else "length")


def test_text_that_might_become_a_stop_text_is_held_back_until_it_is_sure() -> None:
    assert [delta.text for delta in streamed([*"xENyEND."], ["END"])] == ["", "x", "", "", "ENy", "", "", ""]
    assert [delta.text for delta in streamed([*"xEN"], ["END"])] == ["", "x", "", "EN"]


def test_every_token_is_in_one_delta_and_the_ending_one_is_no_text() -> None:
    stream = TextStream(Pieces(["prompt", "text", "</s>", "more"]))
    tokens = [Token(0, prompt=True), Token(1), Token(2, finish="stop")]
    deltas = [delta for token in tokens for delta in stream.push(token)]
    assert deltas == [
        Delta("", tokens[0], None),
        Delta("", tokens[1], None),
        Delta("text", tokens[2], "stop"),
    ]
    assert stream.push(Token(3)) == []


def test_an_answer_that_ends_inside_a_character_ends_before_it(tiny: TinyBundle) -> None:
    codec = tiny_codec(tiny)
    ids = codec.encode_text("a\N{GOTHIC LETTER AHSA}")
    assert len(ids) > 2  # the letter is several tokens
    for count in range(2, len(ids)):
        stream = TextStream(codec)
        tokens = [Token(token) for token in ids[: count - 1]] + [Token(ids[count - 1], finish="length")]
        assert "".join(delta.text for token in tokens for delta in stream.push(token)) == "a"


def test_empty_stop_text_is_refused() -> None:
    with pytest.raises(RequestError, match="may not be empty"):
        TextStream(Pieces([]), ["a", ""])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """The engine's tiny bundle with a codec, and a template of its own for one adapter."""
    tiny = make(tmp_path_factory.mktemp("chat") / "bundle")
    bundle = Bundle.open(tiny.folder)
    tokenizer = tiny_models.tokenizer()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    ChatCodec(tokenizer.backend_tokenizer, tiny_models.CHATML, special, {2}, 512).save(bundle.codec_path)
    own = bundle.adapter("narrow").model_copy(update={"template": SHOUTED})
    path = bundle.adapter_path("narrow") / "adapter.json"
    write_json(path, own.model_dump(mode="json"))
    changes = {
        "codec": {f"codec/{file.name}": sha256_of(file) for file in bundle.codec_path.iterdir()},
        "adapters": {**bundle.manifest.adapters, "narrow": sha256_of(path)},
    }
    bundle.write_manifest(bundle.manifest.model_copy(update=changes))
    return tiny


@pytest.fixture(scope="module")
def model(tiny: TinyBundle) -> Iterator[ChatModel]:
    loaded = ptune.load(tiny.folder, threads=1, max_rows=4, replay_golden=False)
    yield loaded
    loaded.close()


def expected_text(tiny: TinyBundle, prompt: str, adapter: str, tokens: int) -> str:
    """transformers' greedy answer to a rendered prompt, decoded by transformers' tokenizer.

    A character that the answer's last token does not complete is left out.
    """
    tokenizer = tiny_models.tokenizer()
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    found = tiny.greedy(ids, adapter, tokens)
    ends = [
        index
        for index, token in enumerate(found)
        if token in (2, tokenizer.convert_tokens_to_ids("<|im_end|>"))
    ]
    said = found[: ends[0]] if ends else found
    return tiny_models.decoded(said)


def tiny_codec(tiny: TinyBundle) -> ChatCodec:
    return ChatCodec.open(Bundle.open(tiny.folder).codec_path)


@pytest.mark.parametrize("adapter", ["base", "wide"])
def test_chat_answers_as_transformers_does(tiny: TinyBundle, model: ChatModel, adapter: str) -> None:
    prompt = tiny_models.tokenizer().apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    answer = model.chat(MESSAGES, adapter=adapter, temperature=0, max_tokens=24)
    assert answer.text == expected_text(tiny, prompt, adapter, 24) != ""
    assert answer.usage.prompt_tokens == len(model.encode_chat(MESSAGES))
    assert answer.usage.completion_tokens == len(answer.tokens)
    assert answer.finish == ("length" if len(answer.tokens) == 24 else "stop")


def test_adapter_is_asked_in_its_own_template(tiny: TinyBundle, model: ChatModel) -> None:
    answer = model.chat(MESSAGES, adapter="narrow", temperature=0, max_tokens=12)
    assert answer.text == expected_text(tiny, "DEFINE LOVE.", "narrow", 12)


def test_completion_is_of_the_plain_text(tiny: TinyBundle, model: ChatModel) -> None:
    answer = model.complete("Love, n.", temperature=0, max_tokens=12, adapter="wide")
    assert answer.text == expected_text(tiny, "Love, n.", "wide", 12)


def test_stream_is_the_answer_in_pieces(model: ChatModel) -> None:
    whole = model.chat(MESSAGES, adapter="wide", seed=3, max_tokens=30, logprobs=2)
    deltas = list(model.chat(MESSAGES, adapter="wide", seed=3, max_tokens=30, logprobs=2, stream=True))
    assert "".join(delta.text for delta in deltas) == whole.text
    said = [delta.token for delta in deltas if delta.token is not None]
    assert len(said) == len(deltas)
    assert [token.id for token in said] == [token.id for token in whole.tokens]
    # An adapter's own answers may move by rounding, as its factors meet one row or several.
    assert [token.logprob for token in said] == pytest.approx(
        [token.logprob for token in whole.tokens], abs=1e-4
    )
    assert len(whole.tokens[0].top) == 2
    assert len(deltas) > 10


THINKS = (
    "{% for m in messages %}{{ m.role + ': ' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>' + (mood | default('')) }}{% endif %}"
)


def test_what_is_thought_is_told_from_what_is_said(tiny: TinyBundle, model: ChatModel) -> None:
    defaults = RequestDefaults(thinking_token_budget=4)
    codec = tiny_codec(tiny).with_template(THINKS, defaults=defaults)
    thinking = ptune.ChatModel(model.engine, codec)
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True, "adapter": "base"}
    free = thinking.chat(MESSAGES, thinking_token_budget=-1, **options)
    assert (free.text, free.usage.reasoning_tokens) == ("", 24)
    bounded = thinking.chat(MESSAGES, **options)
    reading = codec.reading(codec.encode_prompt(MESSAGES))
    assert reading is not None
    closing = reading.closing
    ids = [token.id for token in bounded.tokens]
    assert ids[:4] == [token.id for token in free.tokens][:4]
    assert ids[4 : 4 + len(closing)] == [*closing]
    assert free.reasoning.startswith(bounded.reasoning)
    assert bounded.text == tiny_models.decoded(ids[4 + len(closing) :]) != ""
    assert bounded.usage.reasoning_tokens == 4 + len(closing)
    deltas = [*thinking.chat(MESSAGES, **options, stream=True)]
    assert "".join(delta.reasoning for delta in deltas) == bounded.reasoning
    assert "".join(map(str, deltas)) == bounded.text
    assert asyncio.run(thinking.achat(MESSAGES, **options)) == bounded
    assert thinking.complete("a <think>", **options).reasoning == ""


def test_variables_of_the_template_are_options_of_a_chat(tiny: TinyBundle, model: ChatModel) -> None:
    defaults = RequestDefaults(chat_template_kwargs={"mood": "calm"})
    thinking = ptune.ChatModel(model.engine, tiny_codec(tiny).with_template(THINKS, defaults=defaults))
    prompts = {}
    for mood in (None, "angry"):
        options: dict[str, Any] = {"chat_template_kwargs": {"mood": mood}} if mood else {}
        answer = thinking.chat(MESSAGES, adapter="base", max_tokens=2, **options)
        prompts[mood] = answer.usage.prompt_tokens
        asked = thinking.codec.encode_prompt(MESSAGES, variables={"mood": mood or "calm"})
        assert prompts[mood] == len(asked)
    with pytest.raises(RequestError, match="does not read 'temper'"):
        thinking.chat(MESSAGES, adapter="base", chat_template_kwargs={"temper": 1})
    with pytest.raises(RequestError, match="marks no reasoning"):
        model.chat(MESSAGES, adapter="base", thinking_token_budget=3)


def test_stop_text_ends_the_answer_and_the_engines_work(model: ChatModel) -> None:
    free = model.chat(MESSAGES, temperature=0, max_tokens=60)
    stop, before = free.text[5:8], model.engine.stats().tokens
    for stops in (stop, ["never to be seen", stop]):
        answer = model.chat(MESSAGES, temperature=0, max_tokens=400, stop=stops)
        assert answer.text == free.text[: free.text.index(stop)]
        assert answer.finish == "stop"
        assert len(answer.tokens) < len(free.tokens)
    wait_until(lambda: model.engine.stats().running == 0)
    assert model.engine.stats().tokens - before < 2 * 400


def test_without_max_tokens_the_context_is_the_end(model: ChatModel) -> None:
    answer = model.complete("Love", seed=1, logit_bias=dict.fromkeys((2, 4), -100.0))
    assert answer.finish == "length"
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == model.engine.context


def test_an_answer_has_the_form_that_was_asked_for(model: ChatModel) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    for adapter in ("wide", "narrow"):
        answer = model.chat(MESSAGES, adapter=adapter, seed=1, response_format=StructuredOutput.json(schema))
        assert list(json.loads(answer.text)) == ["ok"]
        assert answer.finish == "stop"
    with pytest.raises(RequestError, match="not"):
        model.chat(MESSAGES, response_format=StructuredOutput.json({"not": {}}))
    with pytest.raises(RequestError, match="too complex"):
        model.chat(MESSAGES, seed=1, response_format=StructuredOutput.regex(r"(\w{1,1000}){1,1000}"))


def test_beams_find_what_transformers_finds(tiny: TinyBundle, model: ChatModel) -> None:
    tokenizer = tiny_models.tokenizer()
    ids = torch.tensor([tokenizer("Love, n.", add_special_tokens=False)["input_ids"]])
    stops = [2, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    settings: dict[str, Any] = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True}
    told = tiny.models["wide"].generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=stops,
        **settings,
    )
    expected = tiny_models.decoded(told[0, ids.shape[1] :].tolist())
    answer = model.complete("Love, n.", adapter="wide", max_tokens=12, **settings)
    assert answer.text == expected != ""
    row = {"prompt": "Love, n.", "adapter": "wide"}
    options = {"max_tokens": 12, "temperature": 0.0, "top_p": 1.0}
    [found] = answer_all(model, [row], "base", None, {**options, **settings})
    [greedy] = answer_all(model, [row], "base", None, {**options, "num_beams": 1, "length_penalty": 1.0})
    assert found["answer"] == expected != greedy["answer"]
    stop = expected[3:6]
    cut = model.complete("Love, n.", adapter="wide", max_tokens=12, stop=stop, **settings)
    assert (cut.text, cut.finish) == (expected[: expected.index(stop)], "stop")
    for wrong in (
        {"length_penalty": 2.0},
        {"num_beams": 2, "temperature": 1.0},
        {"num_beams": 2, "logprobs": 1},
    ):
        with pytest.raises(RequestError, match="num_beams"):
            model.complete("Love", **wrong)


def test_beams_without_a_limit_fit_into_the_memory_that_they_share(tiny: TinyBundle) -> None:
    token_bytes = Bundle.open(tiny.folder).decoder.cache_bytes_per_token(4)
    with closing(load(tiny.folder, threads=1, replay_golden=False, kv_bytes=700 * token_bytes)) as model:
        assert model.complete("Love, n.", num_beams=2).finish in ("stop", "length")


def test_options_about_single_tokens(model: ChatModel) -> None:
    """The answer's own tokens are made its end, so that it is clear what ends it and what does not."""
    free = model.complete("Love", temperature=0, max_tokens=12)
    ids = [token.id for token in free.tokens]
    end = ids[2]
    first = ids.index(end)
    stopped = model.complete("Love", temperature=0, max_tokens=12, stop_token_ids=[end])
    assert [token.id for token in stopped.tokens] == ids[: first + 1]
    assert stopped.finish == "stop"
    late = model.complete("Love", temperature=0, max_tokens=12, stop_token_ids=[end], min_tokens=8)
    assert end not in [token.id for token in late.tokens][:8]
    among = model.complete("Love", temperature=0, max_tokens=5, allowed_token_ids=[20, 21])
    assert {token.id for token in among.tokens} <= {20, 21}
    eos = min(model.codec.eos_ids)
    bias: dict[str, Any] = {"logit_bias": {eos: 100.0}, "temperature": 0.0, "max_tokens": 4}
    assert len(model.complete("Love", **bias).tokens) == 1
    endless = model.complete("Love", **bias, ignore_eos=True)
    assert ([token.id for token in endless.tokens], endless.finish, endless.text) == ([eos] * 4, "length", "")


def test_a_bad_word_is_not_said_with_or_without_a_space_before_it(model: ChatModel) -> None:
    free = model.complete("Love", temperature=0, max_tokens=20)
    word = next(text for token in free.tokens if (text := model.codec.token_text(token.id).strip()).isalpha())
    tokens = {tuple(model.codec.encode_text(spelt, special=False)) for spelt in (word, f" {word}")}
    said = tuple(
        token.id for token in model.complete("Love", temperature=0, max_tokens=20, bad_words=[word]).tokens
    )
    for one in tokens:
        assert all(said[at : at + len(one)] != one for at in range(len(said)))


def test_wrong_values_are_refused(model: ChatModel) -> None:
    with pytest.raises(RequestError, match="served: base, wide, narrow"):
        model.chat(MESSAGES, adapter="nobody")
    with pytest.raises(RequestError, match="temperature"):
        model.chat(MESSAGES, temperature=-1)
    for wrong, name in (({"stop_token_ids": [-1]}, "stop_token_ids"), ({"bad_words": [" "]}, "bad_words")):
        with pytest.raises(RequestError, match=name):
            model.chat(MESSAGES, **wrong)
    with pytest.raises(RequestError, match="a sequence may have"):
        model.complete("word " * 600)
    with pytest.raises(PtuneError):
        model.chat([{"role": "user"}])


def test_damaged_codec_and_other_tasks_are_refused(tiny: TinyBundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.folder, tmp_path / "bundle")
    bundle = Bundle.open(folder)
    bundle.write_manifest(bundle.manifest.model_copy(update={"task": "embed"}))
    with pytest.raises(FormatError, match="for 'embed', not for chat"):
        load(folder)
    bundle.write_manifest(bundle.manifest.model_copy(update={"task": "chat"}))
    (folder / "codec" / "codec.json").write_text("{}")
    with pytest.raises(FormatError, match=r"codec\.json is damaged"):
        load(folder)
