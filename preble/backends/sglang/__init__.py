"""The `sglang` engine: SGLang in the worker's process, with our wait queue in front of it.

Only the worker imports it, as `engine:SGLangEngine`, which imports SGLang when it starts. `binding` is for the cluster.
"""
