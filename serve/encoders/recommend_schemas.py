"""Request bodies of /v1/recommend and /v1/recommend/items. Strict, as in `schemas`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from ptune.tasks.recommendation.infer import New, RecommendQuery, Title

from ..fields.message import Body
from .retrieval_schemas import text_of
from .schemas import EncoderRequest

MAX_HISTORY = 1000
MAX_NEW = 1000
MAX_ITEMS = 100_000

Text = Annotated[str, AfterValidator(text_of)]


class Titled(Body):
    """A thing that is not among the items, by its title."""

    title: Text


class NewItem(Body):
    """An item to consider that is not among the adapter's items."""

    item: Text
    title: Text


class RecommendRequest(EncoderRequest):
    """POST /v1/recommend"""

    history: Annotated[list[Text | Titled], Field(min_length=1, max_length=MAX_HISTORY)]
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    exclude: Annotated[list[str], Field(max_length=MAX_ITEMS)] = Field(default_factory=list)
    among: Annotated[list[str], Field(max_length=MAX_ITEMS)] | None = None
    new: Annotated[list[NewItem], Field(max_length=MAX_NEW)] = Field(default_factory=list)
    weight: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def query(self) -> RecommendQuery:
        return RecommendQuery(
            history=[entry if isinstance(entry, str) else Title(entry.title) for entry in self.history],
            k=self.k,
            exclude=self.exclude,
            among=self.among,
            new=[New(item.item, item.title) for item in self.new],
            weight=self.weight,
        )


class ItemsRequest(EncoderRequest):
    """POST /v1/recommend/items"""

    query: Annotated[str, Field(max_length=1000)] = ""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
