"""POST /v1/classify: texts, pairs of texts, images -> labels, in vLLM's shape."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.codecs.image import open_image
from ptune.errors import DataError, RequestError

from .body import media_type, raw_body, validated
from .encoder_schemas import IMAGE_TYPES, MAX_IMAGE_PIXELS, ClassifyRequest, ImageBytes, Input, image_of
from .encoding import Submit, Submitted, addressed, respond
from .service import EncoderService, TheEncoder

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord
    from ptune.tasks.encoder.infer import Classification

router = APIRouter()


async def asked(http: HttpRequest, service: TheEncoder) -> ClassifyRequest:
    """The body: JSON, or an image file as it is with `?model=`. Raises: RequestError (400, 408, 413, 415)."""
    kind = media_type(http)
    # Both are types that a browser sends across origins only after asking; a form is not, so forms are refused.
    if kind == "application/json":
        return validated(ClassifyRequest, await raw_body(http, service))
    if kind not in IMAGE_TYPES:
        raise RequestError(
            f"send `Content-Type: application/json`, or an image as the body with ?model=… ({', '.join(IMAGE_TYPES)})",
            code="unsupported_media_type",
            status=415,
        )
    model = http.query_params.get("model", "")
    if not model:
        raise RequestError("an image as the body needs ?model=ADAPTER", param="model", code="invalid_value")
    try:
        image = image_of(await raw_body(http, service))
    except ValueError as error:
        raise RequestError(f"input: {error}", param="input", code="invalid_value") from None
    return ClassifyRequest.model_construct(model=model, input=[image])


@router.post("/v1/classify")
async def classify(
    body: Annotated[ClassifyRequest, Depends(asked)], service: TheEncoder, http: HttpRequest
) -> Response:
    """Labels each input by itself; inputs of all requests share passes."""
    record = addressed(http, service, body, "/v1/classify")
    _check_kinds(body.input, record)
    return await respond(
        http,
        service,
        record.name,
        body.model,
        [_submit(service, one, record) for one in body.input],
        partial(_described, record, body.use_activation),
    )


def _check_kinds(inputs: Sequence[Input], record: AdapterRecord) -> None:
    """Raises: RequestError where an image stands for a text, or the other way round."""
    wanted = record.preprocessing is not None
    for index, one in enumerate(inputs):
        if isinstance(one, ImageBytes) != wanted:
            needed = "images: send parts of type image_url" if wanted else "texts: it cannot see images"
            place = f"input[{index}]"
            raise RequestError(f"{place}: {record.name} takes {needed}", param=place, code="invalid_value")


def _submit(service: EncoderService, one: Input, record: AdapterRecord) -> Submit[Classification]:
    def submit() -> Submitted[Classification]:
        if isinstance(one, ImageBytes):
            return Submitted(_submitted(service, one, record.name))
        text, pair = (one, None) if isinstance(one, str) else one
        encoded = service.model.codec.encode(text, pair, max_length=record.max_length)
        return Submitted(service.model.submit(one, record.name), len(encoded.ids), encoded.truncated)

    return submit


def _submitted(service: EncoderService, image: ImageBytes, adapter: str) -> Future[Classification]:
    """An image, decoded and queued. Raises: RequestError where it cannot be used."""
    try:
        return service.model.submit(open_image(image.content, max_pixels=MAX_IMAGE_PIXELS), adapter)
    except DataError as error:
        raise RequestError(str(error), param="input", code="invalid_value") from None


def _described(record: AdapterRecord, activation: bool, found: Classification) -> dict[str, Any]:
    """vLLM's fields, and the same by label, likeliest first; where several labels may fit, `labels` names those."""
    labels = record.labels
    values = [found.scores[label] for label in labels] if activation else list(found.logits)
    by_label = dict(zip(labels, values, strict=True))
    fitting = [label for label, score in found.scores.items() if score >= 0.5]
    return {
        "label": found.label,
        **({"labels": fitting} if record.problem == "multi" else {}),
        "probs": values,
        "num_classes": len(labels),
        "scores": {label: by_label[label] for label in found.scores},
    }
