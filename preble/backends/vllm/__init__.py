"""The `vllm` engine: vLLM in the worker's process, or beside it, behind our queue and read by its KV events."""
