"""Evaluation of runs: figures before and after training, answers side by side, a report."""

import ptune.backbone  # noqa: F401 - quiets bitsandbytes, before peft imports it
