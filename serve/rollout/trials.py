"""Decides for each alias with a canary which of the two stays, as soon as what speaks for one of them is certain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import Alias, ByLoss, Canary

from .evidence import Decision, Evidence, Loss, PairedLosses, UserScores
from .texts import Text

if TYPE_CHECKING:
    from ..access.audit import AuditLog

RETRY_S = 5.0
"""Before something that failed for now is tried again: a full queue, a step of the engine, a write to a full disk."""
MOST_TRIES = 3  # of a text that the engine fails
NO_LOSSES = "canary.decide.loss: losses are compared of causal language models only; let users decide, or move the alias yourself"

_log = logging.getLogger("ptune.serve")


class Aliases(Protocol):
    """Where aliases are read and moved."""

    def aliases(self) -> Mapping[str, Alias]: ...
    def settle(self, alias: str, tried: tuple[str, Canary], name: str) -> bool: ...


class Scores(Protocol):
    """Where losses of held-out texts come from."""

    def texts(self, rule: ByLoss) -> list[Text]: ...
    async def losses(self, text: Text, rule: ByLoss, adapters: tuple[str, str]) -> list[Loss]: ...


class Trial:
    """What speaks for an alias's adapter and for its canary."""

    def __init__(self, name: str, canary: Canary) -> None:
        self.name, self.canary = name, canary
        self.users: UserScores | None = None
        self.loss: PairedLosses | None = None
        decide = canary.decide
        if decide is not None and decide.users is not None:
            self.users = UserScores(decide.users, name, canary.name)
        if decide is not None and decide.loss is not None:
            self.loss = PairedLosses(decide.loss, name, canary.name)

    @property
    def of(self) -> tuple[str, Canary]:
        """What is tried; as long as the alias has the same, the trial goes on."""
        return self.name, self.canary

    def evidence(self) -> dict[str, Evidence]:
        """Each kind that was asked for, by its name in `decide`."""
        known: dict[str, Evidence | None] = {"users": self.users, "loss": self.loss}
        return {kind: found for kind, found in known.items() if found is not None}

    def decision(self) -> tuple[Decision, str] | None:
        """The first decision that is certain, and why."""
        for found in self.evidence().values():
            if (decided := found.decision()) is not None:
                return decided, found.told()
        return None


class Trials:
    """The trials that run. They are forgotten at a restart, and begin again; so is one whose alias was moved by hand.

    Methods are called on the event loop. scores: where losses come from; None where there are none. judges: False where
    another server decides. audit: gets a line for each that was decided.
    """

    def __init__(
        self,
        store: Aliases,
        scores: Scores | None = None,
        *,
        judges: bool = True,
        audit: AuditLog | None = None,
    ) -> None:
        self._store, self._scores, self._judges, self._audit = store, scores, judges, audit
        self.running: dict[str, Trial] = {}
        self.decided: dict[Decision, int] = {"promoted": 0, "rolled back": 0}
        self._comparing: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Lock()

    def of(self, alias: str) -> Trial | None:
        """The trial of an alias, begun at the first look; None where nobody is to decide."""
        target = self._store.aliases().get(alias)
        if not self._judges or target is None or target.canary is None or target.canary.decide is None:
            self.running.pop(alias, None)
            return None
        trial = self.running.get(alias)
        if trial is None or trial.of != (target.name, target.canary):
            trial = self.running[alias] = Trial(target.name, target.canary)
            if trial.loss is not None:
                task = asyncio.create_task(self._compare(alias, trial, trial.loss))
                self._comparing.add(task)
                task.add_done_callback(self._comparing.discard)
        return trial

    def begin(self, alias: str) -> None:
        """Begins an alias's trial, anew if it runs already."""
        self.running.pop(alias, None)
        self.of(alias)

    def begin_all(self) -> None:
        """Begins the trials of all aliases, at the start of a server."""
        for alias in self._store.aliases():
            self.of(alias)

    async def close(self) -> None:
        """Ends what compares losses."""
        for task in self._comparing:
            task.cancel()
        await asyncio.gather(*self._comparing, return_exceptions=True)

    async def score(self, alias: str, adapter: str, score: float) -> bool:
        """Counts a user's score, and moves the alias if that decides it. False where it is no longer asked for."""
        trial = self.of(alias)
        if trial is None or trial.users is None or adapter not in trial.users.of:
            return False
        trial.users.of[adapter].add(score)
        await self._settle(alias, trial)
        return True

    async def _compare(self, alias: str, trial: Trial, losses: PairedLosses) -> None:
        """Compares the losses of all texts, until the trial is over."""
        try:
            if self._scores is None:
                raise RequestError(NO_LOSSES)
            texts = await asyncio.to_thread(self._scores.texts, losses.rule)
            losses.texts = len(texts)
            for text in texts:
                pair = await self._losses(self._scores, text, alias, trial, losses.rule)
                if pair is None:
                    return
                losses.add(*pair)
                while trial.decision() is not None:
                    if await self._settle(alias, trial):
                        return
                    await asyncio.sleep(RETRY_S)
            losses.state = "undecided"
            _log.warning("alias %s: canary %s undecided: %s", alias, trial.canary.name, losses.told())
        except RequestError as error:
            if error.status != 503:  # otherwise the model is being closed
                self._stopped(alias, losses, str(error))
        except PtuneError as error:
            self._stopped(alias, losses, str(error))
        except Exception:
            _log.exception("alias %s: the trial of canary %s failed", alias, trial.canary.name)
            self._stopped(alias, losses, "internal error; the server's log says more")

    async def _losses(
        self, scores: Scores, text: Text, alias: str, trial: Trial, rule: ByLoss
    ) -> list[Loss] | None:
        """Both losses of a text, tried again where the engine has no room or fails; None where the trial is over.

        Raises: PtuneError.
        """
        failed = 0
        while self.of(alias) is trial:
            try:
                return await scores.losses(text, rule, (trial.name, trial.canary.name))
            except RequestError as error:
                if error.status != 429:
                    raise
            except PtuneError:
                failed += 1
                if failed == MOST_TRIES:
                    raise
            await asyncio.sleep(RETRY_S)
        return None

    async def _settle(self, alias: str, trial: Trial) -> bool:
        """Moves the alias if its trial is decided. True where the trial is over; False also where that cannot be written."""
        async with self._moving:
            if self.of(alias) is not trial:
                return True
            if (decided := trial.decision()) is None:
                return False
            try:
                await asyncio.to_thread(self._move, alias, trial, *decided)
            except RequestError as error:
                _log.error("alias %s: canary %s is not %s: %s", alias, trial.canary.name, decided[0], error)
                return False
            self.of(alias)  # forgets the trial
            return True

    def _move(self, alias: str, trial: Trial, decision: Decision, why: str) -> None:
        """Points the alias at what stays, unless somebody has moved it just now. Runs on a thread. Raises: RequestError."""
        stays = trial.canary.name if decision == "promoted" else trial.name
        if self._store.settle(alias, trial.of, stays):
            _log.warning("alias %s: canary %s %s: %s", alias, trial.canary.name, decision, why)
            if self._audit is not None:
                moved = {"alias": alias, "name": stays, "canary": trial.canary.name}
                self._audit.write({**moved, "decision": decision, "why": why})
            self.decided[decision] += 1

    def _stopped(self, alias: str, losses: PairedLosses, problem: str) -> None:
        losses.stop(problem)
        _log.error("alias %s: losses are no longer compared: %s", alias, problem)
