"""PruMUX: structured pruning and data multiplexing for high-throughput Transformer encoders."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from prumux.checkpoints.convert import Conversion, convert_checkpoint
from prumux.errors import UserError
from prumux.inference.engine import InferenceEngine, compile_for_inference
from prumux.models.configuration import PrumuxConfig
from prumux.models.heads import (
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
)
from prumux.models.modeling import PrumuxModel, PrumuxOutput
from prumux.pruning.compaction import compact
from prumux.pruning.l0 import L0Gates
from prumux.pruning.masks import Masks

__version__ = "0.1.0"

AutoConfig.register("prumux", PrumuxConfig, exist_ok=True)
AutoModel.register(PrumuxConfig, PrumuxModel, exist_ok=True)
AutoModelForSequenceClassification.register(PrumuxConfig, PrumuxForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(PrumuxConfig, PrumuxForTokenClassification, exist_ok=True)
AutoModelForMaskedLM.register(PrumuxConfig, PrumuxForMaskedLM, exist_ok=True)

__all__ = [
    "Conversion",
    "InferenceEngine",
    "L0Gates",
    "Masks",
    "PrumuxConfig",
    "PrumuxForMaskedLM",
    "PrumuxForSequenceClassification",
    "PrumuxForTokenClassification",
    "PrumuxModel",
    "PrumuxOutput",
    "UserError",
    "compact",
    "compile_for_inference",
    "convert_checkpoint",
]
