"""ptune: fine-tune a model on your own hardware and serve exactly the adapter you trained.

    import ptune

    run = ptune.train("chat_lora", data=[{"prompt": "…", "completion": "…"}, …])
    bundle = ptune.export(run)
    with ptune.load(bundle) as model:
        print(model.chat("Hello"))

Nothing heavy is imported before it is used. docs/python.md shows every function.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ptune.version import __version__

# onnxruntime's wheels report what they run to their maker, unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from ptune.api.chat import ChatModel as ChatModel
    from ptune.api.combine import combine as combine
    from ptune.api.encoder import EncoderModel as EncoderModel
    from ptune.api.evaluate import Evaluation as Evaluation
    from ptune.api.evaluate import evaluate as evaluate
    from ptune.api.export import export as export
    from ptune.api.label import label as label
    from ptune.api.load import Model as Model
    from ptune.api.load import load as load
    from ptune.api.recipe import recipe as recipe
    from ptune.api.seq2seq import Seq2SeqModel as Seq2SeqModel
    from ptune.api.train import train as train
    from ptune.codecs.structured_output import StructuredOutput as StructuredOutput
    from ptune.config.chat import Chat as Chat
    from ptune.config.classification import ImageClassification as ImageClassification
    from ptune.config.classification import TextClassification as TextClassification
    from ptune.config.classification import TokenClassification as TokenClassification
    from ptune.config.distillation import Distillation as Distillation
    from ptune.config.on_policy_distillation import OnPolicyDistillation as OnPolicyDistillation
    from ptune.config.preference import Preference as Preference
    from ptune.config.process_reward import ProcessReward as ProcessReward
    from ptune.config.recipe import Backbone as Backbone
    from ptune.config.recipe import Data as Data
    from ptune.config.recipe import Evaluate as Evaluate
    from ptune.config.recipe import Plan as Plan
    from ptune.config.recipe import Recipe as Recipe
    from ptune.config.recipe import Train as Train
    from ptune.config.recommendation import Recommendation as Recommendation
    from ptune.config.reinforcement import Reinforcement as Reinforcement
    from ptune.config.retrieval import Embedding as Embedding
    from ptune.config.retrieval import Reranking as Reranking
    from ptune.config.reward_model import RewardModel as RewardModel
    from ptune.config.translation import Translation as Translation
    from ptune.config.unpaired_preference import UnpairedPreference as UnpairedPreference
    from ptune.errors import AdapterError as AdapterError
    from ptune.errors import BackboneError as BackboneError
    from ptune.errors import DataError as DataError
    from ptune.errors import FormatError as FormatError
    from ptune.errors import ParityError as ParityError
    from ptune.errors import PtuneError as PtuneError
    from ptune.errors import RecipeError as RecipeError
    from ptune.errors import RequestError as RequestError
    from ptune.errors import TemplateError as TemplateError
    from ptune.errors import UsageError as UsageError
    from ptune.formats.bundle import Bundle as Bundle
    from ptune.formats.run import Run as Run
    from ptune.methods.adalora import AdaLora as AdaLora
    from ptune.methods.bitfit import BitFit as BitFit
    from ptune.methods.boft import Boft as Boft
    from ptune.methods.c3a import C3a as C3a
    from ptune.methods.delora import DeLora as DeLora
    from ptune.methods.fourierft import FourierFt as FourierFt
    from ptune.methods.freeze import FreezeExceptLast as FreezeExceptLast
    from ptune.methods.full import Full as Full
    from ptune.methods.gralora import GraLora as GraLora
    from ptune.methods.hira import Hira as Hira
    from ptune.methods.hra import Hra as Hra
    from ptune.methods.ia3 import Ia3 as Ia3
    from ptune.methods.lily import Lily as Lily
    from ptune.methods.ln_tuning import LnTuning as LnTuning
    from ptune.methods.loha import LoHa as LoHa
    from ptune.methods.lokr import LoKr as LoKr
    from ptune.methods.lora import Lora as Lora
    from ptune.methods.miss import Miss as Miss
    from ptune.methods.oft import Oft as Oft
    from ptune.methods.p_tuning import PTuning as PTuning
    from ptune.methods.prefix_tuning import PrefixTuning as PrefixTuning
    from ptune.methods.prompt_tuning import PromptTuning as PromptTuning
    from ptune.methods.psoft import Psoft as Psoft
    from ptune.methods.pvera import Pvera as Pvera
    from ptune.methods.randlora import RandLora as RandLora
    from ptune.methods.road import Road as Road
    from ptune.methods.shira import Shira as Shira
    from ptune.methods.tinylora import TinyLora as TinyLora
    from ptune.methods.trainable_tokens import TrainableTokens as TrainableTokens
    from ptune.methods.unilora import UniLora as UniLora
    from ptune.methods.vblora import VbLora as VbLora
    from ptune.methods.vera import Vera as Vera
    from ptune.methods.waveft import WaveFt as WaveFt
    from ptune.tasks.recommendation.infer import New as New
    from ptune.tasks.recommendation.infer import RecommendQuery as RecommendQuery
    from ptune.tasks.recommendation.infer import Title as Title
    from ptune.training.callbacks import StepInfo as StepInfo
    from ptune.training.callbacks import StopTraining as StopTraining

_MODULES = {
    "api.chat": "ChatModel",
    "api.combine": "combine",
    "api.encoder": "EncoderModel",
    "api.evaluate": "Evaluation evaluate",
    "api.export": "export",
    "api.label": "label",
    "api.load": "Model load",
    "api.recipe": "recipe",
    "api.seq2seq": "Seq2SeqModel",
    "api.train": "train",
    "codecs.structured_output": "StructuredOutput",
    "config.chat": "Chat",
    "config.classification": "ImageClassification TextClassification TokenClassification",
    "config.distillation": "Distillation",
    "config.on_policy_distillation": "OnPolicyDistillation",
    "config.preference": "Preference",
    "config.process_reward": "ProcessReward",
    "config.recipe": "Backbone Data Evaluate Plan Recipe Train",
    "config.recommendation": "Recommendation",
    "config.reinforcement": "Reinforcement",
    "config.retrieval": "Embedding Reranking",
    "config.reward_model": "RewardModel",
    "config.translation": "Translation",
    "config.unpaired_preference": "UnpairedPreference",
    "errors": "AdapterError BackboneError DataError FormatError ParityError PtuneError RecipeError RequestError"
    " TemplateError UsageError",
    "formats.bundle": "Bundle",
    "formats.run": "Run",
    "methods.adalora": "AdaLora",
    "methods.bitfit": "BitFit",
    "methods.boft": "Boft",
    "methods.c3a": "C3a",
    "methods.delora": "DeLora",
    "methods.fourierft": "FourierFt",
    "methods.freeze": "FreezeExceptLast",
    "methods.full": "Full",
    "methods.gralora": "GraLora",
    "methods.hira": "Hira",
    "methods.hra": "Hra",
    "methods.ia3": "Ia3",
    "methods.lily": "Lily",
    "methods.ln_tuning": "LnTuning",
    "methods.loha": "LoHa",
    "methods.lokr": "LoKr",
    "methods.lora": "Lora",
    "methods.miss": "Miss",
    "methods.oft": "Oft",
    "methods.p_tuning": "PTuning",
    "methods.prefix_tuning": "PrefixTuning",
    "methods.prompt_tuning": "PromptTuning",
    "methods.psoft": "Psoft",
    "methods.pvera": "Pvera",
    "methods.randlora": "RandLora",
    "methods.road": "Road",
    "methods.shira": "Shira",
    "methods.tinylora": "TinyLora",
    "methods.trainable_tokens": "TrainableTokens",
    "methods.unilora": "UniLora",
    "methods.vblora": "VbLora",
    "methods.vera": "Vera",
    "methods.waveft": "WaveFt",
    "tasks.recommendation.infer": "New RecommendQuery Title",
    "training.callbacks": "StepInfo StopTraining",
}
# bitsandbytes warns on import that it lacks an optional kernel, which ptune does not use (see `ptune.backbone.quantize`).
# peft imports it, so this must come before either is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "gemm_4bit_forward" not in str(record.msg)
)

_PLACES = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """A public name, imported now. Raises: AttributeError."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ptune' has no attribute {name!r}")
    return getattr(import_module(f"ptune.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Front(ModuleType):
    """This module. The package ptune.export would take the place of the function of that name once it is imported."""

    @property
    def export(self) -> Any:
        return __getattr__("export")

    @export.setter
    def export(self, package: ModuleType) -> None:
        """What the import of a package does to its parent; `from ptune.export import …` does not need it."""


sys.modules[__name__].__class__ = _Front
