"""Replicas that run already, by base URL: vLLM, SGLang, or any server of the OpenAI API.

The only package of preble that imports aiohttp, when an engine starts.
"""
