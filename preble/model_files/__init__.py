"""Files of models, read without their engine: the head of a GGUF file, with its metadata and where its tensors lie.

Text reads the tokenizer from it and the torch engine the weights. It imports only `errors`.
"""
