"""What a run has learnt: figures before and after, answers side by side, a report."""

import ptune.backbone  # noqa: F401 - quiets bitsandbytes, before peft imports it
