from preble.core.cached import Floats

def cheapest(
    load: Floats,
    table: memoryview,
    levels: object,
    length: int,
    alone: float,
    busy: float,
    beside: float,
    tokens: float,
    /,
) -> tuple[int, int, int, int] | None: ...
