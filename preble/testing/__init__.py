"""What tests of your own need: small models with random weights, and an event loop whose clock does not wait.

With `PrebleCluster(..., processes=False)` a whole cluster runs in a `VirtualTimeLoop`. Of the package, only the command
line imports this.
"""

from preble.testing.models import CHAT_TEMPLATE, SHAPES, SIZES, SPECIAL_TOKENS, main, make_model
from preble.testing.virtual_time import VirtualTimeLoop

__all__ = ["CHAT_TEMPLATE", "SHAPES", "SIZES", "SPECIAL_TOKENS", "VirtualTimeLoop", "main", "make_model"]
