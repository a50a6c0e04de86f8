"""The `torch` engine: Llama-family models in Hugging Face format, on a CPU or a CUDA device, in the worker itself.

Only the worker imports it, as `engine:TorchEngine`; `binding`, which imports no torch, is for the cluster. No other
folder of preble imports torch.
"""
