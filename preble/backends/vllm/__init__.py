"""The `vllm` engine: vLLM in the worker's process or beside it, with our wait queue in front of it.

Only the worker imports it, as `engine:VllmEngine`, which imports vLLM when it starts. `binding` is for the cluster.
"""
