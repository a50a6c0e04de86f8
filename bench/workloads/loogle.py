"""Questions about long documents (LooGLE): everything but the question is shared by a document's questions."""

from __future__ import annotations

import math
from typing import Literal

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, draws, normal, shuffled, stratified
from preble.simulate import Request

INSTRUCTION = 13
DOCUMENT = normal(23_474, 6_105, 8_000, 34_500)
QUESTIONS = normal(18.6, 8.6, 2, 60)
QUESTION = normal(19, 6, 6, 60)
NONCE = 22
OUTPUT = normal(16, 9.9, 1, 45)
MAX_TOKENS = 64

MEAN_QUESTIONS = 18.9
DOCUMENTS = {"2-gpu": (24, 1.13), "4-gpu": (48, 1.13), "full": (105, 1.0)}
"""By size: documents, and what the number of questions on each is multiplied by."""


def loogle(
    *, rate: float = 1.0, requests: int = 986, seed: int = 0, size: Literal["2-gpu", "4-gpu", "full"] = "4-gpu"
) -> list[Request]:
    """Independent requests, Poisson: 24 or 48 documents of 20.5 questions, or 105 of 18.6; more for more requests."""
    documents, more = DOCUMENTS[size]
    documents = max(documents, math.ceil(requests / (MEAN_QUESTIONS * more)))
    lengths = stratified(DOCUMENT, documents, chance("loogle", seed, "documents"))
    counts = [math.ceil(asked * more) for asked in stratified(QUESTIONS, documents, chance("loogle", seed, "counts"))]
    asked = [document for document, times in enumerate(counts) for _ in range(times)]
    asked = shuffled(asked, chance("loogle", seed, "order"))[:requests]
    arrivals = poisson(rate, chance("loogle", seed, "arrivals"))
    questions = draws(QUESTION, chance("loogle", seed, "question"))
    outputs = draws(OUTPUT, chance("loogle", seed, "output"))
    return [
        Request(
            arrival=arrival,
            segments=((0, INSTRUCTION), (1 + document, lengths[document]), (documents + 1 + index, question + NONCE)),
            output_tokens=output,
            max_tokens=MAX_TOKENS,
        )
        for index, (document, arrival, question, output) in enumerate(
            zip(asked, arrivals, questions, outputs, strict=False)
        )
    ]
