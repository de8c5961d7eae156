"""POST /v2/models/{model}/infer: tensors of texts -> tensors of classes, entities, vectors or scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune.config.tasks import endpoints_of
from ptune.errors import RequestError
from ptune.tasks.retrieval.infer import check_cut

from ..adapters.access import resolve_encoder_adapter
from ..encoders.call import run_encoder
from ..encoders.schemas import EncoderRequest
from ..http.body import body_of
from ..http.dependencies import EncoderServiceDep
from ..openai.chat_translation import renaming
from .models import check_version, record_of, version_of
from .schemas import InferRequest
from .tensors import PAIR, TEXT, TaskTensors, Tensor, tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptune.formats.bundle import AdapterRecord

    from ..service import EncoderService

router = APIRouter()
InferBody = Annotated[InferRequest, Depends(body_of(InferRequest))]


@router.post("/v2/models/{model}/infer")
async def infer(model: str, body: InferBody, service: EncoderServiceDep, http: HttpRequest) -> dict[str, Any]:
    """Computes the outputs of an adapter; inputs of all requests and adapters share batches."""
    return await _inferred(model, None, body, service, http)


@router.post("/v2/models/{model}/versions/{version}/infer")
async def infer_version(
    model: str, version: str, body: InferBody, service: EncoderServiceDep, http: HttpRequest
) -> dict[str, Any]:
    """The same of this version alone, which is 12 digits of the adapter's hash."""
    return await _inferred(model, version, body, service, http)


async def _inferred(
    model: str, version: str | None, body: InferRequest, service: EncoderService, http: HttpRequest
) -> dict[str, Any]:
    task = record_of(http, service, model).task
    asked = EncoderRequest.model_construct(model=model)
    record = resolve_encoder_adapter(http, service, asked, endpoints_of(task)[0])
    check_version(service, record, version)
    tensors, cut = tensors_of(record), body.parameters.truncate_prompt_tokens
    wanted = _wanted(tensors, body, record)
    if cut is not None:
        check_cut(record, service.model.codec, cut)
    inputs = [tensors.tokenise(service, text, record, cut) for text in _texts(tensors, body, record)]
    with renaming({"input": TEXT}):
        outputs, call = await run_encoder(http, service, record.name, inputs)
    columns = zip(tensors.outputs, tensors.columns(outputs, record), strict=True)
    written = [_written(tensor, data, record, len(outputs)) for tensor, data in columns if tensor in wanted]
    cut_off = [entry.truncated for entry in call.tokenised]
    return {
        "model_name": model,
        "model_version": version_of(service, record),
        **({} if body.id is None else {"id": body.id}),
        **({"parameters": {"truncated": cut_off}} if any(cut_off) else {}),
        "outputs": written,
    }


def _texts(
    tensors: TaskTensors, body: InferRequest, record: AdapterRecord
) -> Sequence[str | tuple[str, str]]:
    """The texts, or pairs of texts. Raises: RequestError(400) if the tensors are not those of the adapter."""
    given = {tensor.name: tensor.data for tensor in body.inputs}
    known = [tensor.name for tensor in tensors.inputs]
    needed = known if tensors.pairs == "required" else [TEXT]
    if len(given) < len(body.inputs) or not set(needed) <= set(given) <= set(known):
        may = f"{TEXT}, and {PAIR} if you like" if tensors.pairs == "optional" else " and ".join(known)
        names = ", ".join(repr(tensor.name[:40]) for tensor in body.inputs)
        raise _bad("inputs", f"{record.name} takes {may}, once each (sent: {names})")
    texts = given[TEXT]
    if len(texts) > tensors.most:
        raise _bad(TEXT, f"{len(texts)} texts, over {tensors.most} in one request")
    for name, values in given.items():
        for index, value in enumerate(values):
            if not value.strip():
                raise _bad(f"{name}[{index}]", "must not be empty")
    if PAIR not in given:
        return texts
    if len(given[PAIR]) != len(texts):
        raise _bad(PAIR, f"must have as many elements as {TEXT}, {len(texts)} (has {len(given[PAIR])})")
    return list(zip(texts, given[PAIR], strict=True))


def _wanted(tensors: TaskTensors, body: InferRequest, record: AdapterRecord) -> Sequence[Tensor]:
    """The outputs that are asked for; all, if none is named. Raises: RequestError(400) for one that is not there."""
    known = {tensor.name: tensor for tensor in tensors.outputs}
    for output in body.outputs:
        if output.name not in known:
            raise _bad("outputs", f"{record.name} has {', '.join(known)} (asked for: {output.name[:40]!r})")
    return [known[output.name] for output in body.outputs] or tensors.outputs


def _written(tensor: Tensor, data: list[Any], record: AdapterRecord, rows: int) -> dict[str, Any]:
    shape = tensor.shape(record, rows)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data}


def _bad(place: str, message: str) -> RequestError:
    return RequestError(f"{place}: {message}", param=place, code="invalid_value")
