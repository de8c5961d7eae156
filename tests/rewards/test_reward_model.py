"""Rewards of a bundle's model: the reranker's and the regression's own numbers."""

from __future__ import annotations

import pytest
from support import encoder_bundles, retrieval_runs

import ptune
from ptune.rewards import RewardError, rewards_of


def test_a_reranker_scores_prompt_and_answer() -> None:
    folder = retrieval_runs.bundle()
    prompts, answers = ["what is number 7", "what is number 8"], ["seven seven", "eight " * 200]
    messages = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": prompt}] for prompt in prompts
    ]
    (reward,) = rewards_of([f"reward_model:{folder}"])
    found = reward(messages, [[{"role": "assistant", "content": answer}] for answer in answers], {})
    with ptune.load(folder) as model:
        expected = [
            float(model.rerank(prompt, [answer], adapter=retrieval_runs.RANKS, truncate=True)[0])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    assert found == expected
    assert len({*expected}) == 2


def test_a_bundle_without_one_number_is_refused_when_it_is_opened() -> None:
    (reward,) = rewards_of([f"reward_model:{encoder_bundles.tiny().bundle.folder}"])
    with pytest.raises(
        RewardError, match="has no adapter that gives one number for a text, and has to have one"
    ):
        reward(["?"], ["!"], {})
