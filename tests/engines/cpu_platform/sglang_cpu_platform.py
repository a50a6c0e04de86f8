"""Found by SGLang through its entry point: it then asks this platform, and not its own tables of GPUs."""


def activate() -> str:
    """Name the platform's class."""
    return "sglang_cpu_platform_class.TorchCpuPlatform"
