"""Methods decide which weights are trained. Each is its own config: `Lora(r=16).apply(model)`.

A new method is a file here, and its name in the type `Method`. Most are a `PeftMethod`: fields, and the name of peft's config.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

from ptune.methods.adalora import AdaLora
from ptune.methods.bitfit import BitFit
from ptune.methods.boft import Boft
from ptune.methods.c3a import C3a
from ptune.methods.delora import DeLora
from ptune.methods.fourierft import FourierFt
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.gralora import GraLora
from ptune.methods.hira import Hira
from ptune.methods.hra import Hra
from ptune.methods.ia3 import Ia3
from ptune.methods.lily import Lily
from ptune.methods.ln_tuning import LnTuning
from ptune.methods.loha import LoHa
from ptune.methods.lokr import LoKr
from ptune.methods.lora import Lora
from ptune.methods.miss import Miss
from ptune.methods.oft import Oft
from ptune.methods.p_tuning import PTuning
from ptune.methods.prefix_tuning import PrefixTuning
from ptune.methods.prompt_tuning import PromptTuning
from ptune.methods.psoft import Psoft
from ptune.methods.pvera import Pvera
from ptune.methods.randlora import RandLora
from ptune.methods.road import Road
from ptune.methods.shira import Shira
from ptune.methods.tinylora import TinyLora
from ptune.methods.trainable_tokens import TrainableTokens
from ptune.methods.unilora import UniLora
from ptune.methods.vblora import VbLora
from ptune.methods.vera import Vera
from ptune.methods.waveft import WaveFt
from ptune.spec import Spec

Method: TypeAlias = (
    Lora
    | FreezeExceptLast
    | Full
    | AdaLora
    | BitFit
    | Boft
    | C3a
    | DeLora
    | FourierFt
    | GraLora
    | Hira
    | Hra
    | Ia3
    | Lily
    | LnTuning
    | LoHa
    | LoKr
    | Miss
    | Oft
    | PTuning
    | PrefixTuning
    | PromptTuning
    | Psoft
    | Pvera
    | RandLora
    | Road
    | Shira
    | TinyLora
    | TrainableTokens
    | UniLora
    | VbLora
    | Vera
    | WaveFt
)
METHODS: tuple[type[Spec], ...] = get_args(Method)

OTHER_NAMES = {
    "corda": "Lora with init: corda",
    "dora": "Lora with dora: true",
    "eva": "Lora with init: eva",
    "loftq": "Lora with init: loftq, and backbone.quantize",
    "lorafa": "Lora with freeze_a: true",
    "loraga": "Lora with init: lora_ga",
    "loraplus": "Lora, and train.lora_plus_ratio",
    "olora": "Lora with init: olora",
    "pissa": "Lora with init: pissa",
    "qlora": "Lora, and backbone.quantize: nf4",
    "rslora": "Lora with rslora: true",
}
"""What is known as a method and is a form of one, in small letters."""
