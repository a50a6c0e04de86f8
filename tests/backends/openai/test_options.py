from __future__ import annotations

import pytest

from preble.backends.openai.options import base_url, replica_options
from preble.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://a:8000", "http://a:8000"),
        ("http://a:8000/", "http://a:8000"),
        ("https://a/v1/", "https://a"),
        ("https://a/prefix/v1", "https://a/prefix"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_a_base_url_is_the_same_however_it_is_written(given: str, meant: str):
    assert base_url(given) == meant


@pytest.mark.parametrize(
    "url", ["a:8000", "ftp://a", "http://", "", None, "http://user:hunter2@a", "http://a?key=hunter2", "http://a#x"]
)
def test_other_urls_are_refused_without_their_secrets(url: object):
    with pytest.raises(ConfigurationError, match="url") as caught:
        base_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idle_timeout", 0),
        ("health_timeout", -1),
        ("protocol", "smoke"),
        ("kv_tokenz", 3),
        ("backoff", 0),
        ("health_path", "health"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(name: str, value: object):
    with pytest.raises(ConfigurationError, match=name):
        replica_options({"url": "http://a", name: value})


def test_without_an_url_it_says_who_takes_them():
    with pytest.raises(ConfigurationError, match=r"url: is missing; PrebleCluster.connect"):
        replica_options({"context_limit": 100})
