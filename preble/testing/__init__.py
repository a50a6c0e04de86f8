"""What tests of your own need: scripted answers, models, and an event loop whose clock does not wait.

`Script` says what a model answers, and remembers what it was asked. `make_model` writes a small model with random
weights, and `real_model` fetches one whose answers mean something. With `PrebleCluster(..., processes=False)` a whole
cluster runs in a `VirtualTimeLoop`. Of the package, only the command line and the pytest plugin import this.
"""

from preble.testing.faults import Faults
from preble.testing.gguf_folder import convert_gguf
from preble.testing.models import CHAT_TEMPLATE, SHAPES, SIZES, SPECIAL_TOKENS, main, make_model
from preble.testing.real_models import FORMATS, REAL_MODELS, RealModel, cache_folder, get_model, real_model
from preble.testing.recorded import Recording
from preble.testing.replies import Call, Reply, ToolCall
from preble.testing.scripted import Script
from preble.testing.virtual_time import VirtualTimeLoop

__all__ = [
    "CHAT_TEMPLATE",
    "FORMATS",
    "REAL_MODELS",
    "SHAPES",
    "SIZES",
    "SPECIAL_TOKENS",
    "Call",
    "Faults",
    "RealModel",
    "Recording",
    "Reply",
    "Script",
    "ToolCall",
    "VirtualTimeLoop",
    "cache_folder",
    "convert_gguf",
    "get_model",
    "main",
    "make_model",
    "real_model",
]
