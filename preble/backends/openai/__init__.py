"""The `openai` engine: replicas that run already, by base URL. They are vLLM, SGLang or servers of the OpenAI API.

The pool of replicas imports `engine`, and the cluster `options`. No other folder imports aiohttp, and this one only
when an engine starts.
"""
