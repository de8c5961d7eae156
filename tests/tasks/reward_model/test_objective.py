"""However pairs are divided among passes and processes, their losses add up to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ptune.codecs.labels import Labels
from ptune.data.examples.sequences import SequenceExample
from ptune.tasks.encoder.train import Loss, SequenceObjective
from ptune.tasks.reward_model.objective import RewardExample, RewardObjective
from ptune.training.objective import Score
from ptune.training.rows.packing import Share

CPU = torch.device("cpu")


def pairs(count: int) -> list[RewardExample]:
    def side(number: int, length: int) -> SequenceExample:
        ids = tuple(5 + (number * 7 + place) % 90 for place in range(length))
        return SequenceExample(ids, (0,) * length, ())

    return [
        RewardExample(side(number, 3 + number), side(number + 50, 9 - number % 4), number / 10)
        for number in range(count)
    ]


@pytest.mark.parametrize(("most", "processes"), [(1000, 1), (40, 1), (40, 3), (1000, 4)])
def test_losses_of_all_passes_and_processes_add_up(kit: Path, most: int, processes: int) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(kit / "bert", num_labels=1).eval().double()
    objective = RewardObjective(
        SequenceObjective(Loss(Labels(("reward",), "multi")), most, CPU, 0, type_ids=True), 0.01
    )
    made = pairs(6)
    scores: list[Score] = []
    for process in range(processes):
        own = [objective.score(model, batch) for batch in objective.batches(made, Share(process, processes))]
        assert not scores or len(own) == len(scores) // process
        scores += own
    wanted, right = 0.0, 0
    for pair in made:
        chosen, rejected = (
            float(
                model(
                    input_ids=torch.tensor([side.ids]),
                    token_type_ids=torch.tensor([side.type_ids]),
                ).logits
            )
            for side in (pair.chosen, pair.rejected)
        )
        by = torch.tensor(chosen - rejected - pair.margin, dtype=torch.float64)
        wanted += float(torch.log1p(torch.exp(-by))) + 0.01 * (chosen + rejected) ** 2
        right += chosen > rejected
    assert sum(score.targets for score in scores) == 6
    assert sum(float(score.loss) for score in scores) == pytest.approx(wanted, abs=1e-6)
    assert sum(int(score.correct) for score in scores) == right
