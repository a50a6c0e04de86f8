"""The `sglang` engine: SGLang inside the worker's process, token ids in and out."""
