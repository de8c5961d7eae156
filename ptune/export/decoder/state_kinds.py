"""The table of kernels that layers with states call: what the graph computes in their place, and the state that it keeps.

A layer of transformers computes its projections, gates and norms itself, and calls its convolution and its recurrence as
functions, with the interfaces of the fast kernels that GPUs have for them: causal-conv1d, flash-linear-attention, mamba-ssm.
Every family calls them by the same names. So a layer's own code is traced, and only these functions are exchanged: a new
family that calls them needs nothing here.

transformers' own functions take a prompt in chunks of 64 or so, by another formula and with other sums than single tokens.
Here there is one form for both, token after token, so that a sequence's numbers do not depend on how it was cut.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ptune.export.decoder.attention import STEP
from ptune.export.decoder.recurrence.convolution import causal_convolution, last_inputs
from ptune.export.decoder.recurrence.delta_rule import delta_rule, of_gated_delta_net, of_kimi_delta_attention
from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.recurrence.selective_scan import of_mamba, selective_scan
from ptune.export.decoder.recurrence.state_space import of_mamba2, state_space
from ptune.export.decoder.sockets import StepInputs
from ptune.export.decoder.states import StateKind


class Kernel(NamedTuple):
    """What stands in the graph for a kernel."""

    compute: Callable[..., Any]  # takes a `LayerStates` before the kernel's own arguments
    shape: Callable[[Any], tuple[int, ...]]  # of the state of a module that calls it, for one sequence
    reads: tuple[str, ...] = ()  # linear layers whose weights such a module reads itself


KERNELS: dict[str, Kernel] = {  # by transformers' function for a whole prompt
    "causal_conv1d_fn": Kernel(causal_convolution, last_inputs),
    "torch_chunk_gated_delta_rule": Kernel(delta_rule, of_gated_delta_net),
    "chunk_kimi_delta_attention": Kernel(delta_rule, of_kimi_delta_attention),
    "mamba2_chunk_scan": Kernel(state_space, of_mamba2),
    "mamba_selective_scan": Kernel(selective_scan, of_mamba, reads=("dt_proj",)),
}


def kind_of(module: nn.Module) -> StateKind | None:
    """The states of a layer and what it computes in a step; None of a layer that calls no kernel."""
    called = _called_by(type(module))
    if not called:
        return None
    kernels = [KERNELS[name] for name in called]
    reads = tuple(name for kernel in kernels for name in kernel.reads)
    return StateKind(lambda layer: tuple(kernel.shape(layer) for kernel in kernels), _forward, reads)


def _called_by(layer: type[nn.Module]) -> tuple[str, ...]:
    """The kernels that a class of layers calls, in their order, itself or by functions of its own file."""
    forward = inspect.unwrap(layer.forward)
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    if not names:
        return ()
    by_functions = _called_in(forward.__globals__.get("__file__"))
    reached = ((name,) if name in KERNELS else by_functions.get(name, ()) for name in names)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(reached)))


@functools.cache
def _called_in(file: str | None) -> dict[str, tuple[str, ...]]:
    """The kernels that each function of a file calls, in their order.

    From transformers 5.25 on a layer calls functions that know its cache, and these the kernels. They may be wrapped so that
    their code is not at hand, so it is read from the file.
    """
    if file is None:
        return {}
    functions = [
        one for one in ast.parse(Path(file).read_text("utf-8")).body if isinstance(one, ast.FunctionDef)
    ]
    found = {}
    for function in functions:
        names = [one for one in ast.walk(function) if isinstance(one, ast.Name) and one.id in KERNELS]
        names.sort(key=lambda one: (one.lineno, one.col_offset))
        found[function.name] = tuple(dict.fromkeys(one.id for one in names))
    return found


def _forward(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """transformers' own `forward` of a layer, with the graph's kernels."""
    step: StepInputs = getattr(module, STEP)
    states = step.states_of(module)
    layer, theirs = LayerStates(states, states.take(module)), type(module)
    with _exchanged(inspect.unwrap(theirs.forward).__globals__, _called_by(theirs), layer):
        out = theirs.forward(module, *arguments, **options)
    states.give(module, *layer.present)
    return out


@contextlib.contextmanager
def _exchanged(places: dict[str, Any], names: Sequence[str], layer: LayerStates) -> Iterator[None]:
    """While this is open, these names mean the graph's kernels."""
    theirs = {name: places[name] for name in names}
    places.update({name: functools.partial(KERNELS[name].compute, layer) for name in names})
    try:
        yield
    finally:
        places.update(theirs)
