"""SGLang on a CPU with what torch has: no Triton, no compiled kernels."""

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform


class TorchCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Every operator in its plain torch form."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        """Attention by torch's own operator."""
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        """Layers by their plain forward pass."""
        return "native"

    def is_pin_memory_available(self, device: object = None) -> bool:
        """There is no device to copy to."""
        return False
