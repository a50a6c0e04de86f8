"""The embedded engine: Llama-family models in Hugging Face format, on a CPU or a CUDA device, through torch.

The only package of preble that imports torch.
"""
