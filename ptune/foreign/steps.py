"""What several fields say together: the batch of a step, warm-up, when to validate and to save, and which rows are held out."""

from __future__ import annotations

from typing import Literal

from ptune.foreign.draft import Draft, is_off, number

PACKED = "a row of theirs is packed and holds many examples, a batch here counts examples: multiply by how many of yours fill a row"


def batch(draft: Draft, micro: str, accumulation: str, usual: int, packed: bool = False) -> None:
    """`train.batch_size`: examples of a step = per device × accumulation × devices. usual: the tool's default per device."""
    examples = draft.count(micro, usual) * draft.count(accumulation, 1) * draft.devices
    on = "one device" if draft.devices == 1 else f"{draft.devices} devices"
    look = f"examples of a whole step on {on}: --devices N says otherwise" + (f"; {PACKED}" if packed else "")
    fields = " × ".join(name for name in (micro, accumulation) if draft.has(name) and name not in draft.done)
    if fields:
        draft.set(fields, "train.batch_size", examples, look)
    else:
        draft.default("train.batch_size", examples, f"{draft.tool}'s default; {look}")


def warmup(draft: Draft, ratio: str, steps: str, usual: float) -> None:
    """`train.warmup`, a share of the steps. steps: a field that counts them, or below 1 holds a share too."""
    share, counted = number(draft.get(ratio)), number(draft.get(steps))
    most = number(draft.get("max_steps"))
    if counted is not None and (counted >= 1 or share is None):
        if 0 <= counted < 1:
            draft.set(steps, "train.warmup", counted)
        elif most is not None and most > counted > 0:
            draft.set(
                steps, "train.warmup", round(counted / most, 6), "a share of the steps here, not a number"
            )
        else:
            draft.look(
                steps,
                "a share of the steps here: set train.warmup to this number / the steps of your training",
            )
            return
    elif share is not None:
        draft.set(ratio, "train.warmup", share)
        if draft.has(steps):
            draft.needless(steps, f"{ratio} stands beside it and counts")
        return
    else:
        draft.default("train.warmup", usual)
    if draft.has(ratio) and ratio not in draft.done:
        draft.needless(ratio, f"{steps} stands beside it and counts")


def decays(draft: Draft, first: str = "adam_beta1", second: str = "adam_beta2") -> None:
    """`train.betas`: two fields there, one here."""
    fields = [name for name in (first, second) if draft.has(name)]
    if fields:
        betas = [draft.get(first, 0.9), draft.get(second, 0.999)]
        draft.set(" × ".join(fields), "train.betas", betas)


def validation(draft: Draft, strategies: tuple[str, ...] = ("eval_strategy", "evaluation_strategy")) -> None:
    """`train.validate_every`, in steps."""
    _every(draft, "eval_steps", "evals_per_epoch", strategies, "train.validate_every")


def saving(draft: Draft) -> None:
    """`train.save_every`, in steps."""
    _every(draft, "save_steps", "saves_per_epoch", ("save_strategy",), "train.save_every")


def _every(draft: Draft, steps: str, per_epoch: str, strategies: tuple[str, ...], path: str) -> None:
    strategy = next((name for name in strategies if draft.has(name)), "")
    said = str(draft.get(strategy, "steps")).lower()
    if strategy:
        none = said == "no" or is_off(draft.get(strategy))
        why = "four times an epoch here unless the recipe says when"
        draft.needless(strategy, why) if said == "steps" or not none else draft.look(strategy, why)
    if draft.has(steps):
        every = number(draft.get(steps))
        if said not in ("steps", "best"):
            draft.needless(steps, f"{strategy} {said} ignores it")
        elif every is not None and every >= 1 and every == int(every):
            draft.set(steps, path, int(every))
        else:
            draft.look(steps, f"{path} is a number of steps; unset, it is four times an epoch")
    if draft.has(per_epoch):
        often = number(draft.get(per_epoch))
        if often == 4:
            draft.needless(per_epoch, "four times an epoch is what ptune does")
        else:
            draft.look(per_epoch, f"four times an epoch here, unless {path} says after how many steps")


def overlong(draft: Draft, there: Literal["cut", "left out", "kept"]) -> None:
    """`task.on_overlong`. there: what the tool does with examples that are longer than this config allows."""
    if there == "kept":
        why = "nothing is cut there: raise task.max_length to your longest example, up to the model's context"
        draft.default("task.on_overlong", "error", why)
        return
    is_pair = draft.task in ("Preference", "UnpairedPreference")  # whose answers are never cut here
    value, look = (
        ("drop", "longer examples are left out, as there")
        if there == "left out"
        else ("drop", "longer examples are left out here, cut there")
        if is_pair
        else ("truncate", "longer examples are cut")
    )
    draft.default("task.on_overlong", value, f"{look}; error tells you of them")


def held_out(draft: Draft, share: str) -> None:
    """`data.validation_share`. share: a field that holds a share of the rows, or from 1 on a number of them."""
    if "data.validation" in draft.values:
        if draft.has(share):
            draft.needless(share, "the validation files stand beside it and count")
        return
    if not draft.has(share):
        return
    value = number(draft.get(share))
    if value == 0:
        draft.look(
            share,
            "ptune always holds out a part, 0.1 unless data.validation_share says otherwise: it chooses the best checkpoint",
        )
    elif value is not None and value >= 1:
        draft.look(
            share, "a share here, not a number of rows: set data.validation_share to this number / your rows"
        )
    else:
        draft.set(share, "data.validation_share", draft.get(share))
