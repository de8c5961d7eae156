"""Memory prediction before the first step: how much a training needs, for what, and what to change if it is too much."""

from ptune.planning.fit import Fit, fit_into, refuse
from ptune.planning.memory_ledger import Ledger
from ptune.planning.prediction import predict
from ptune.planning.preflight import planned

__all__ = ["Fit", "Ledger", "fit_into", "planned", "predict", "refuse"]
