"""Inputs of layers that keep states: a step's flat tokens in rows, one a sequence, padded to the longest.

Attention has a padded view of its own (ptune.engine.decoder.inputs.attention_metadata), in which a token may stand several times. A state
must take each token once.
"""

from __future__ import annotations

import numpy as np

from ptune.engine.decoder.inputs.flat_tokens import Tokens
from ptune.engine.onnx_graph import Array


def state_inputs(tokens: Tokens) -> dict[str, Array]:
    """The inputs of `ptune.formats.signature.STATE_INPUTS` for a step's tokens."""
    rows = int(tokens.size.max())
    new_tokens = np.zeros(tokens.batch, np.int64)
    new_tokens[tokens.batch_index] = tokens.size
    return {
        "state_pad_indices": tokens.pad(rows),
        "state_unpad_indices": tokens.unpad(rows),
        "new_tokens": new_tokens,
    }
