"""What `bench.faces` makes of its measurements, and that every face answers it."""

from __future__ import annotations

from bench import faces
from bench.faces import Cost
from preble import PrebleCluster


def test_what_is_ours_is_the_difference_within_a_round():
    rounds = [
        {"native": Cost(10, 1, 1, 5), "sdk": Cost(30, 4, 4, 9), "client": Cost(35, 6, 6, 7), "http": Cost(70, 9, 9, 9)},
        {
            "native": Cost(20, 1, 1, 5),
            "sdk": Cost(60, 4, 4, 9),
            "client": Cost(65, 6, 6, 7),
            "http": Cost(130, 9, 9, 9),
        },
    ]
    ours = faces._ours(rounds)
    assert (ours["ours_request_us"], ours["ours_chunk_us"], ours["client_first_after_native_us"]) == (5, 2, 2)
    assert ours["http_per_client_request"] == 2
    assert faces._medians(rounds)["client_request_us"] == 50


async def test_every_face_gets_the_tokens_it_asks_for():
    async with (
        PrebleCluster(backend="sim", workers=1, processes=False) as cluster,
        cluster.openai() as client,
        await faces.recorded(cluster) as sdk,
    ):
        for ask in (faces.native(cluster), faces.by_client(client), faces.by_client(sdk)):
            assert await ask(1, False) == (0.0, 1)
            first, chunks = await ask(4, True)
            assert first > 0
            assert 1 <= chunks <= 5
