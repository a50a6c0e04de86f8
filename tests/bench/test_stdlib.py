from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from bench.workloads.stdlib import DOCUMENTS, TOOL_SETS, document, requests, source, tool_set, topics

DIGEST = """
import hashlib, msgspec
from bench.workloads.stdlib import requests, topics
print(hashlib.sha256(msgspec.json.encode(requests(topics(), 50, rate=2.0, seed=7))).hexdigest())
"""


def digest(hash_seed: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, check=True).stdout


def test_the_same_seed_gives_the_same_requests_in_any_process():
    assert digest("1") == digest("2")


def test_another_seed_gives_other_requests():
    assert requests(topics(2, 2), 20, rate=1.0, seed=1) != requests(topics(2, 2), 20, rate=1.0, seed=2)


@pytest.mark.parametrize("module", TOOL_SETS)
def test_a_tool_set_describes_functions_within_its_bound(module):
    topic = tool_set(module, 4500)
    assert 700 < len(topic.prefix) <= 4500
    assert topic.prefix.count(f"\n{module}.") >= len(topic.questions) >= 3
    assert all("\n" in question and len(question) < 500 for question in topic.questions)


@pytest.mark.parametrize("module", DOCUMENTS)
def test_a_document_is_the_beginning_of_a_source_and_asks_about_what_is_in_it(module):
    topic = document(module, 6000)
    text = source(module)[:6000]
    assert len(text) == 6000
    assert text in topic.prefix
    assert len(topic.questions) >= 2
    assert all(
        question.split()[-2].removesuffix("?\nAnswer:").rstrip("?") in topic.prefix for question in topic.questions
    )


def test_prefixes_are_distinct_and_alternate():
    names = [topic.name.partition("/")[0] for topic in topics(3, 2)]
    assert names == ["tools", "document", "tools", "document", "tools"]
    assert all(one.prefix[:200] != other.prefix[:200] for one, other in pairwise(topics()))


def test_requests_begin_with_the_prefix_of_their_topic():
    chosen = {topic.name: topic for topic in topics(2, 2)}
    for request in requests(list(chosen.values()), 40, rate=1.0, max_tokens=5):
        topic = chosen[request.session]
        assert request.prompt.removeprefix(topic.prefix) in topic.questions
        assert request.max_tokens == 5


def test_arrivals_are_poisson_of_the_rate():
    arrivals = [request.arrival for request in requests(topics(1, 1), 2000, rate=4.0)]
    gaps = [later - earlier for earlier, later in pairwise([0.0, *arrivals])]
    mean = sum(gaps) / len(gaps)
    assert min(gaps) > 0
    assert mean == pytest.approx(0.25, rel=0.1)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.25)


def test_popularity_is_zipf():
    counts = Counter(request.session for request in requests(topics(2, 2), 4000, rate=1.0, exponent=1.0))
    first, *_, last = (count for _, count in counts.most_common())
    assert first / last == pytest.approx(4.0, rel=0.2)


def test_a_module_without_source_is_named():
    with pytest.raises(LookupError, match="_thread"):
        source("_thread")


def test_requests_can_be_stored():
    request = requests(topics(1, 0), 1, rate=1.0)[0]
    assert msgspec.json.decode(msgspec.json.encode(request), type=type(request)) == request
