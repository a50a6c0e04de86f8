"""Questions about videos (NExT-QA): a video is thousands of tokens, its few questions and answers are tiny."""

from __future__ import annotations

import math
from typing import Literal

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, draws, normal, popular, shuffled, stratified, table
from preble.simulate import Request

INSTRUCTION = 13
VIDEO = table(
    "0:2560 .05:3090 .1:3640 .2:4760 .3:5720 .4:7040 .5:8610 .6:10510 .7:12900 .8:15820 .9:19780 .95:22200 .98:23014 "
    ".995:23014 1:46000"
)
QUESTIONS = normal(8.8, 1.9, 3, 15)
QUESTION = normal(48, 7.3, 31, 72)
OUTPUT_WEIGHTS = (13, 25, 25, 20, 10.5, 5, 1.5)
"""Of outputs of 2, 3, ... tokens."""
MAX_TOKENS = 16

VIDEOS = 570
CROPPED = 8_192
ROWS = {"2-gpu": 150, "4-gpu": 300}
REPEATED = 8
"""Times that each row is asked, on average; long videos more often."""


def videoqa(
    *, rate: float = 1.0, requests: int = 2_518, seed: int = 0, size: Literal["2-gpu", "4-gpu", "full"] = "4-gpu"
) -> list[Request]:
    """Independent requests, Poisson.

    In the 4-GPU size prompts are cropped, and 300 questions on 237 videos are asked 4 to 10 times each; in the 2-GPU
    size 150 questions. In the full size 570 videos get 8.8 questions each, asked once. There are more of them for
    more requests.
    """
    if size == "full":
        asked, lengths = _once(max(VIDEOS, math.ceil(requests / 8.5)), seed)
    else:
        asked, lengths = _repeated(requests, ROWS[size], seed)
    asked = shuffled(asked, chance("videoqa", seed, "order"))[:requests]
    arrivals = poisson(rate, chance("videoqa", seed, "arrivals"))
    questions = draws(QUESTION, chance("videoqa", seed, "question"))
    outputs = popular(OUTPUT_WEIGHTS, chance("videoqa", seed, "output"))
    return [
        Request(
            arrival=arrival,
            segments=((0, INSTRUCTION), (1 + video, lengths[video]), (len(lengths) + 1 + index, question)),
            output_tokens=2 + output,
            max_tokens=MAX_TOKENS,
        )
        for index, (video, arrival, question, output) in enumerate(
            zip(asked, arrivals, questions, outputs, strict=False)
        )
    ]


def _once(videos: int, seed: int) -> tuple[list[int], list[int]]:
    lengths = stratified(VIDEO, videos, chance("videoqa", seed, "videos"))
    counts = stratified(QUESTIONS, videos, chance("videoqa", seed, "counts"))
    return [video for video, times in enumerate(counts) for _ in range(times)], lengths


def _repeated(requests: int, rows: int, seed: int) -> tuple[list[int], list[int]]:
    more = max(1, round(requests / (REPEATED * rows)))
    asked, lengths = _once(VIDEOS * more, seed)
    lengths = [min(length, CROPPED - INSTRUCTION) for length in lengths]
    taken = shuffled(asked, chance("videoqa", seed, "rows"))[: rows * more]
    mean = sum(lengths[video] for video in taken) / len(taken)
    return [video for video in taken for _ in range(math.ceil(REPEATED * lengths[video] / mean))], lengths
