"""The servers that the studio has started, and one that is named by its address: where they are, and what they are asked."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ptune.errors import PtuneError, UsageError
from ptune.studio.jobs.queue import Job, Jobs
from ptune.studio.serve.exposition import Scrape

TIMEOUT_S = 10.0
CHAT_PATH = "/v1/chat/completions"
ACCEPTED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "ptune.json",
    "chat_template.jinja",
    "tokenizer.json",
)
"""Files of an adapter that a server takes."""
_PAGE = re.compile(r"^(?:Chat page|Page): (http\S+)$", re.MULTILINE)


class NoServerError(PtuneError):
    """A server does not answer, or refuses what it was asked."""


@dataclass(frozen=True)
class Served:
    """A serve job. url: once it answers; page: the address of its chat page; keys: its file of API keys."""

    job: Job
    url: str | None
    page: str | None
    keys: Path | None

    @property
    def label(self) -> str:
        """For a menu."""
        return f"{self.job.name} · {self.url or self.job.state}"


def serve_command(
    jobs: Jobs, bundle: str, *, profile: str | None, port: int, keys: str, page: bool
) -> tuple[str, ...]:
    """The command that serves a bundle of the workspace beside the queue. port 0 takes a free one.

    Raises: UsageError for a name that is none.
    """
    workspace = jobs.workspace
    number = 1 + max((int(job.id) for job in jobs.all()), default=0)
    ready = workspace.own / "servers" / f"{number:05d}.url"
    return (
        "ptune", "serve", workspace.shown(workspace.bundle(bundle)), "--port", str(port), "--adapters-api",
        *(("--profile", profile) if profile else ()),
        *(("--api-key-file", keys.strip()) if keys.strip() else ()),
        *(("--ui-port", "0") if page else ("--no-ui",)),
        "--ready-file", workspace.shown(ready),
    )  # fmt: skip


def served(jobs: Jobs) -> list[Served]:
    """The servers of this workspace that run or wait, the newest first."""
    return [
        _served(jobs, job) for job in reversed(jobs.all()) if job.kind == "serve" and job.state == "running"
    ]


def _served(jobs: Jobs, job: Job) -> Served:
    options = dict(zip(job.command, job.command[1:], strict=False))
    folder, ready, keys = jobs.workspace.folder, options.get("--ready-file"), options.get("--api-key-file")
    url = None
    if ready is not None:
        try:
            url = (folder / ready).read_text(encoding="utf-8").strip() or None
        except OSError:
            url = None
    page = _PAGE.search(jobs.log(job.id))
    return Served(job, url, None if page is None else page[1], None if keys is None else folder / keys)


def address(url: str) -> str:
    """A server's address without /v1. Raises: UsageError for what is none."""
    plain = url.strip().rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(plain)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:%-]+", parsed.host):
        raise UsageError(f"{url!r} is no server's address: write http://HOST:PORT")
    return plain


class Client:
    """Asks one server. Every method raises NoServerError with a sentence where it refuses or does not answer."""

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = address(url)
        plain = (key or "").strip()  # an empty field of the page is None
        if not (plain.isascii() and plain.isprintable()):
            raise UsageError("that is no API key: it has characters that no header may hold")
        headers = {"authorization": f"Bearer {plain}"} if plain else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False, transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def scrape(self) -> Scrape:
        """Its metrics now. Raises: FormatError, too, where they are none."""
        return Scrape.parsed(self._asked("GET", "/metrics").text, time.monotonic())

    def models(self) -> list[dict[str, Any]]:
        """The cards of the models that the key may use."""
        return self._list("/v1/models")

    def adapters(self) -> list[dict[str, Any]]:
        """The cards of all adapters; for a key of scope admin."""
        return self._list("/v1/adapters")

    def aliases(self) -> list[dict[str, Any]]:
        """All aliases, with their canaries and what is known of them; for a key of scope admin."""
        return self._list("/v1/aliases")

    def add(self, name: str, folder: Path) -> dict[str, Any]:
        """Sends an adapter's files; it is served at once, unmeasured."""
        files = [("files", (one.name, one.read_bytes())) for one in self.files(folder)]
        return self._object("POST", "/v1/adapters", data={"name": name}, files=files, timeout=120)

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """The files of an adapter that are sent. Raises: UsageError where there is none."""
        found = [folder / one for one in ACCEPTED if (folder / one).is_file()]
        if {*ACCEPTED[:2]} - {path.name for path in found}:
            raise UsageError(f"{folder} holds no adapter in PEFT's format")
        return found

    @staticmethod
    def alias_path(name: str) -> str:
        """Where an alias is pointed at an adapter. Raises: UsageError for what is no name."""
        return f"/v1/adapters/{_part(name)}/alias"

    def point(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Points an alias at an adapter; body: as `alias_body` makes it."""
        return self._object("POST", self.alias_path(name), json=body)

    def roll_back(self, alias: str) -> dict[str, Any]:
        """Points an alias back at its adapter before."""
        return self._object("POST", f"/v1/aliases/{_part(alias)}/rollback")

    def answer(
        self, card: Mapping[str, Any], text: str
    ) -> tuple[str, dict[str, float] | None, dict[str, str]]:
        """What a model says to a text, in words; of a classifier its labels with their probabilities, of a regressor its
        numbers; and the limits of the key as the response's headers tell them."""
        path, body = request_of(card, text)
        response = self._asked("POST", path, json=body, timeout=120)
        limits = {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}
        try:
            answer = response.json()
            return said(card, path, answer), scores_of(path, answer), limits
        except (ValueError, KeyError, IndexError, TypeError):
            raise NoServerError(f"{self.url} sent an answer that cannot be read") from None

    def _list(self, path: str) -> list[dict[str, Any]]:
        found = self._object("GET", path).get("data")
        if not isinstance(found, list):
            raise NoServerError(f"{self.url} answers, but it is not a ptune server")
        return found

    def _object(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._asked(method, path, **request)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NoServerError(f"{self.url} answers, but it is not a ptune server")
        return found

    def _asked(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            ValueError,
        ):  # the last: a key or a host that no header holds
            raise NoServerError(f"the server at {self.url} does not answer") from None
        if response.is_error:
            raise NoServerError(_refusal(self.url, path, response))
        return response


def _refusal(url: str, path: str, response: httpx.Response) -> str:
    if response.status_code == 401:
        return f"{url} asks for an API key, and does not know this one, if there is one"
    try:
        told = response.json()["error"]
        message, code = str(told["message"]), told.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"{url} answered {path} with HTTP status {response.status_code}", None
    no_such_path = response.status_code == 404 and code is None
    if no_such_path and path.startswith(("/v1/adapters", "/v1/aliases")):
        return f"{url} takes no adapters over HTTP: start it with --adapters-api"
    return message


def _part(name: str) -> str:
    """A name as one part of a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise UsageError(
            f"{name!r} cannot be a name: take letters, digits, '.', '_' and '-', with a letter or digit first"
        )
    return name


def alias_body(
    alias: str, canary: str = "", share: float = 0.1, margin: float | None = None
) -> dict[str, Any]:
    """What the server is sent to point an alias. canary: gets a share of the requests; margin: users' scores decide on it,
    and by so much it may be worse. Raises: UsageError."""
    body: dict[str, Any] = {"alias": _part(alias)}
    if canary:
        if not 0 < share < 1:
            raise UsageError(f"a canary gets a share of the requests between 0 and 1, and {share:g} is none")
        body["canary"] = {"name": canary, "share": share}
        if margin is not None:
            body["canary"]["decide"] = {"users": {"margin": margin}}
    return body


def request_of(card: Mapping[str, Any], text: str) -> tuple[str, dict[str, Any]]:
    """The endpoint and the body that ask a model about a text. Raises: UsageError for one that is asked otherwise."""
    path = str(card.get("endpoint") or CHAT_PATH)
    model = str(card["id"])
    if path == CHAT_PATH:
        asked = [{"role": "user", "content": text}]
        return path, {"model": model, "messages": asked, "max_tokens": 256, "temperature": 0}
    if path in ("/v1/classify", "/v1/tag", "/v1/embeddings"):
        return path, {"model": model, "input": text}
    if path == "/v1/translate":
        return path, {"model": model, "text": [text]}
    raise UsageError(f"{model} is asked at {path}, which takes more than a text: use the server's page")


def said(card: Mapping[str, Any], path: str, answer: dict[str, Any]) -> str:
    """A model's answer in words. Raises: KeyError, TypeError or IndexError where it is another's."""
    if path == CHAT_PATH:
        return str(answer["choices"][0]["message"]["content"] or "")
    [item] = answer["data"]
    if path == "/v1/classify":
        form = ".4g" if gives_numbers(card) else ".1%"
        return ", ".join(f"{label} {score:{form}}" for label, score in item["scores"].items())
    if path == "/v1/tag":
        found = [f"{one['text']} ({one['label']})" for one in item["entities"]]
        return ", ".join(found) or "nothing is tagged"
    if path == "/v1/embeddings":
        return f"a vector of {len(item['embedding'])} numbers"
    return str(item["text"])


def scores_of(path: str, answer: Mapping[str, Any]) -> dict[str, float] | None:
    """A classifier's labels with their probabilities, the likeliest first; a regressor's numbers. Raises: as `said`."""
    if path != "/v1/classify":
        return None
    return dict(sorted(answer["data"][0]["scores"].items(), key=lambda one: -float(one[1])))


def gives_numbers(card: Mapping[str, Any]) -> bool:
    """Whether a model's scores are numbers that it predicts, not probabilities."""
    return card.get("problem") == "regression"


def writes_text(card: Mapping[str, Any]) -> bool:
    """Whether a model writes text, so that tokens are counted of it."""
    return (card.get("endpoint") or CHAT_PATH) in (CHAT_PATH, "/v1/translate")


def curl(
    url: str, path: str, *, key: bool, body: Mapping[str, Any] | None = None, form: Sequence[str] = ()
) -> str:
    """The same request as a line for a shell; a key is never shown."""
    words = ["curl", "-sS", f"{url}{path}"]
    if key:
        words += ["-H", "Authorization: Bearer KEY"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body, ensure_ascii=False)]
    for one in form:
        words += ["-F", one]
    if body is None and not form and path.endswith("/rollback"):
        words += ["-X", "POST"]
    return shlex.join(words)
