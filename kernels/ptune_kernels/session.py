"""Opens graphs with the operators, to check them."""

from __future__ import annotations

from typing import Any

import onnxruntime

from ptune_kernels import LIBRARY

THREADS = 2


def session(graph: bytes, threads: int = THREADS) -> Any:
    """Opens a graph with the operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
