"""Rewards score answers: what reinforcement learning raises, and evaluation counts. `rewards_of(["exact", "0.2*length:40"])`.

A function has TRL's signature, `def reward(prompts, completions, **columns) -> list[float | None]`, so that those written for TRL
work as they are (https://huggingface.co/docs/trl/main/en/rewards). A new one that ships is a file here and a row of `table.py`.
"""

from __future__ import annotations

from ptune.rewards.asked import rewards_of
from ptune.rewards.reward import Reward, RewardError

__all__ = ["Reward", "RewardError", "rewards_of"]
