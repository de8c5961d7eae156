"""Fields of reinforcement, which TRL has and Axolotl hands on to it."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, names, number, shown
from ptune.foreign.rules import Rule, Table, fields, left, needless, to

_LOSSES = {"grpo", "dapo", "dr_grpo"}
_CLIP = 0.2  # TRL's, below 1 and above
GROUP = 8  # answers to a prompt, by TRL's default for GRPO
_NOT_HERE = {
    "accuracy_reward": "number, or exact, compares with the answer of the row",
    "reasoning_accuracy_reward": "number, or exact, compares with the answer of the row",
    "think_format_reward": "regex tests the form",
    "get_soft_overlong_punishment": "overlong counts the tokens beyond a length",
}


def begin_rewarded(
    draft: Draft, prefix: str, micro: str, accumulation: str, usual: int, usual_group: int = GROUP
) -> None:
    """Rewards with their weights, and the number of prompts in a step. prefix: of TRL's fields in this file.

    usual, usual_group: the trainer's default number of answers per device, and of answers to a prompt.
    """
    group = draft.count(f"{prefix}num_generations", usual_group)
    draft.usual(f"{prefix}num_generations", "task.group_size", group)
    answers = draft.count(micro, usual) * draft.count(accumulation, 1) * draft.devices
    look = "prompts of a step here, answers there: answers / num_generations"
    given = " × ".join(name for name in (micro, accumulation) if draft.has(name) and name not in draft.done)
    prompts = max(1, answers // group)
    if given:
        draft.set(given, "train.batch_size", prompts, look)
    else:
        draft.default("train.batch_size", prompts, look)
    _rewards(draft, f"{prefix}reward_funcs", f"{prefix}reward_weights")
    _lengths(draft, prefix)
    if updates(draft, f"{prefix}num_iterations") > 1:
        draft.usual(f"{prefix}epsilon", "task.clip", _CLIP)
    if draft.has(f"{prefix}steps_per_generation"):
        _fresh(draft, f"{prefix}steps_per_generation", draft.count(accumulation, 1))


def _rewards(draft: Draft, functions: str, weights: str) -> None:
    if not draft.has(functions):
        draft.default("task.rewards", ["exact"], "the file names no reward: choose one of docs/rewards.md")
        return
    given = draft.get(weights, [])
    given = given if isinstance(given, list) else [given]
    rewards, missing = [], []
    for at, name in enumerate(names(draft.get(functions))):
        if name in _NOT_HERE:
            missing.append(f"{name} is not here: {_NOT_HERE[name]}")
            continue
        module, _, function = name.rpartition(".")
        weight = number(given[at]) if at < len(given) else 1
        named = f"{module.replace('.', '/')}.py:{function}" if module else function
        rewards.append(named if weight in (1, None) else f"{weight:g}*{named}")
    if rewards:
        draft.set(
            functions,
            "task.rewards",
            rewards,
            "the file that holds the function, from the folder that you train in",
        )
    for why in missing:
        draft.leave(functions, why)
    if not rewards:
        draft.default("task.rewards", ["exact"], "a stand-in: choose one of docs/rewards.md")
    if draft.has(weights):
        draft.needless(weights, "stands before each reward")


def _lengths(draft: Draft, prefix: str) -> None:
    """`task.answer_tokens`, and `task.max_length`, which holds prompt and answer together."""
    answer = draft.count(f"{prefix}max_completion_length", 512)
    prompt = draft.count(f"{prefix}max_prompt_length", 512)
    if draft.has(f"{prefix}max_completion_length"):
        draft.set(f"{prefix}max_completion_length", "task.answer_tokens", answer)
    else:
        draft.default("task.answer_tokens", answer)
    look = "prompt and answer together here"
    if draft.has(f"{prefix}max_prompt_length"):
        draft.set(f"{prefix}max_prompt_length", "task.max_length", prompt + answer, look)
    elif not draft.has("sequence_len") or number(draft.get("sequence_len")) in (None, 0):
        draft.default("task.max_length", prompt + answer, look)


def _loss(draft: Draft, name: str, value: Any) -> None:
    said = str(value).lower()
    level = draft.get(name.replace("loss_type", "importance_sampling_level"))
    if said == "grpo" and str(level).lower() == "sequence":
        draft.set(name, "task.loss", "gspo")
    elif said in _LOSSES:
        draft.set(name, "task.loss", said)
    elif said == "bnpo":
        draft.set(
            name, "task.loss", "dapo", "dapo divides by the tokens of the whole step, bnpo by those of a pass"
        )
    else:
        draft.leave(name, f"ptune has no {shown(value)}: task.loss is grpo, dapo, dr_grpo, rloo or gspo")


def _scale(draft: Draft, name: str, value: Any) -> None:
    if value is False or str(value).lower() in ("none", "false"):
        draft.look(name, "task.loss says it: dr_grpo does not divide by the group's deviation")
    elif str(value).lower() == "batch":
        draft.look(name, "rewards are compared within their group here")
    else:
        draft.needless(name, "grpo and dapo divide by the group's deviation, as here")


def _plain_sampling(draft: Draft, name: str, value: Any) -> None:
    """Sampling as the model thinks is all that ptune does; the values that mean it are no loss."""
    off = {"temperature": (1,), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "repetition_penalty": (1,)}
    if number(value) in off[name.rpartition(".")[2]]:
        draft.needless(name, "answers are drawn as likely as the model thinks them, as here")
    else:
        draft.leave(name, "answers are drawn as likely as the model thinks them")


_NO_RATIO = "with one update for each batch of answers there is no ratio to clip"
_ENGINE = "the engine that serves samples the answers"


def updates(draft: Draft, name: str) -> int:
    """How many updates the file wants for each batch of answers: 1 where it says nothing, or no whole number."""
    value = number(draft.get(name, 1)) or 1
    return int(value) if value == int(value) else 1


def _of_ratio(rule: Rule) -> Rule:
    """What the rule makes of a field that concerns the ratio, where there is one."""

    def of_ratio(draft: Draft, name: str, value: Any) -> None:
        prefix = name.rpartition(".")[0]
        if updates(draft, f"{prefix}.num_iterations" if prefix else "num_iterations") > 1:
            rule(draft, name, value)
        else:
            draft.needless(name, _NO_RATIO)

    return of_ratio


def _level(draft: Draft, name: str, value: Any) -> None:
    loss = name.replace("importance_sampling_level", "loss_type")
    if str(value).lower() != "sequence":
        draft.needless(name, "each token has its ratio, as here")
    elif str(draft.get(loss)).lower() == "grpo":
        draft.needless(name, "stands in task.loss")
    else:
        draft.leave(name, "whole answers have a ratio in task.loss gspo, which otherwise is grpo")


def _fresh(draft: Draft, name: str, accumulation: int) -> None:
    """There a batch of answers may be cut into parts, each learnt from in a step of its own."""
    if number(draft.get(name)) == accumulation:
        draft.needless(name, "each step samples its answers, as here")
    else:
        draft.look(name, "each step samples its answers here, those of several at once there")


def REWARDED(prefix: str) -> Table:  # noqa: N802 - a table, of names with this prefix
    """The table of these fields. prefix: "trl." in Axolotl."""
    rules: dict[str, Rule] = {
        "num_generations": to("task.group_size"),
        **fields(needless("of answers that are rewarded: Reinforcement"), "max_completion_length", "max_prompt_length",
                 "reward_funcs", "reward_weights"),
        "beta": to("task.kl"),
        "loss_type": _loss,
        "scale_rewards": _scale,
        "mask_truncated_completions": lambda draft, name, value: (
            draft.set(name, "task.cut_answers", "leave_out") if value else draft.needless(name, "counted, as here")
        ),
        "chat_template_kwargs": to("task.chat_template_kwargs"),
        "num_iterations": to("task.updates"),
        "epsilon": _of_ratio(to("task.clip")),
        "epsilon_high": _of_ratio(to("task.clip_high")),
        "importance_sampling_level": _level,
        "delta": _of_ratio(left("the ratio of a worse answer has no upper bound here")),
        "off_policy_mask_threshold": _of_ratio(left("answers that have become unlikely stay in the loss")),
        "reward_processing_classes": needless("a reward reads text here"),
        "reward_model_name_or_path": left("reward_model:FOLDER among task.rewards asks a reward model's bundle"),
        "sync_ref_model": left("the reference is the model before training"),
        "rollout_func": left("environments and tools within an answer are not here"),
        "generation_kwargs": left("answers are drawn as likely as the model thinks them"),
        "top_entropy_quantile": left("all tokens of an answer count"),
        "multi_objective_aggregation": left("rewards are added up with their weights, and then compared"),
        **fields(_plain_sampling, "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
        **fields(needless("the engine's log-probabilities are the trainer's, which each step certifies"),
                 "vllm_importance_sampling_correction", "vllm_importance_sampling_mode"),
        **fields(needless("each step samples its answers"), "steps_per_generation", "generation_batch_size"),
        **fields(needless(_ENGINE), "use_vllm", "vllm_mode", "vllm_server_host", "vllm_server_port", "vllm_server_timeout",
                 "vllm_server_base_url", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_max_model_length",
                 "vllm_enable_sleep_mode", "use_transformers_paged", "use_liger_loss", "log_completions", "log_unique_prompts",
                 "num_completions_to_print", "ds3_gather_for_generation", "cast_lm_head_to_fp32", "num_generations_eval"),
    }  # fmt: skip
    return {f"{prefix}{name}": rule for name, rule in rules.items()}
