"""Loaded at start by a .pth file, so that `import torchvision` works beside a CPU build of torch.

SGLang imports torchvision whatever the model. The wheel's compiled library needs CUDA and does not load, and the Python
part stops at two operators that are missing then. They are declared here, when torchvision is first asked for.
"""

import sys
from importlib.abc import MetaPathFinder


class _Declare(MetaPathFinder):
    library = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _Declare.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                _Declare.library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")


sys.meta_path.insert(0, _Declare())
