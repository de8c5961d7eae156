"""POST /v1/classify: texts, pairs of texts, or images -> labels, in vLLM's format."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.codecs.image import open_image
from ptune.errors import DataError, RequestError

from ..adapters.access import resolve_encoder_adapter
from ..http.body import media_type, raw_body, validated
from ..http.dependencies import EncoderServiceDep
from ..service import EncoderService
from .call import Tokenise, TokenisedInput, respond_with_list
from .schemas import IMAGE_TYPES, MAX_IMAGE_PIXELS, ClassifyRequest, ImageBytes, Input, image_of

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord
    from ptune.tasks.encoder.infer import Classification

router = APIRouter()


async def read_body(http: HttpRequest, service: EncoderServiceDep) -> ClassifyRequest:
    """The body: JSON, or an image file together with `?model=`. Raises: RequestError (400, 408, 413, 415)."""
    kind = media_type(http)
    # Browsers send both types across origins only after a preflight request. A form needs none, so forms are refused.
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
    body: Annotated[ClassifyRequest, Depends(read_body)], service: EncoderServiceDep, http: HttpRequest
) -> Response:
    """Classifies each input; inputs of all requests share batches."""
    record = resolve_encoder_adapter(http, service, body, "/v1/classify")
    _check_kinds(body.input, record)
    return await respond_with_list(
        http,
        service,
        record.name,
        body.model,
        [tokenise_input(service, value, record) for value in body.input],
        partial(_described, record, body.use_activation),
    )


def _check_kinds(inputs: Sequence[Input], record: AdapterRecord) -> None:
    """Raises: RequestError if an adapter for texts gets an image, or the other way round."""
    takes_images = record.preprocessing is not None
    for index, value in enumerate(inputs):
        if isinstance(value, ImageBytes) != takes_images:
            expected = (
                "images: send parts of type image_url" if takes_images else "texts: it cannot see images"
            )
            param = f"input[{index}]"
            raise RequestError(f"{param}: {record.name} takes {expected}", param=param, code="invalid_value")


def tokenise_input(service: EncoderService, value: Input, record: AdapterRecord) -> Tokenise[Classification]:
    """Tokenises a text or a pair of texts, when it is called; an image is decoded when it is submitted."""

    def tokenise() -> TokenisedInput[Classification]:
        if isinstance(value, ImageBytes):
            return TokenisedInput(partial(_submit_image, service, value, record.name))
        text, pair = (value, None) if isinstance(value, str) else value
        encoded = service.model.codec.encode(text, pair, max_length=record.max_length)
        submit = partial(service.model.submit, value, record.name)
        return TokenisedInput(submit, len(encoded.ids), encoded.truncated)

    return tokenise


def _submit_image(
    service: EncoderService, image: ImageBytes, adapter: str, left_s: float | None
) -> Future[Classification]:
    """Decodes and queues an image. Raises: RequestError if it cannot be used."""
    try:
        return service.model.submit(open_image(image.content, max_pixels=MAX_IMAGE_PIXELS), adapter, left_s)
    except DataError as error:
        raise RequestError(str(error), param="input", code="invalid_value") from None


def _described(record: AdapterRecord, activation: bool, output: Classification) -> dict[str, Any]:
    """vLLM's fields, and `scores` by label, likeliest first; `labels` are those that apply, if several can."""
    labels = record.labels
    values = [output.scores[label] for label in labels] if activation else list(output.logits)
    by_label = dict(zip(labels, values, strict=True))
    applying = [label for label, score in output.scores.items() if score >= 0.5]
    return {
        "label": output.label,
        **({"labels": applying} if record.problem == "multi" else {}),
        "probs": values,
        "num_classes": len(labels),
        "scores": {label: by_label[label] for label in output.scores},
    }
