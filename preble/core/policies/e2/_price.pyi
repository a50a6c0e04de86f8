from preble.core.arrays import Floats

def cheapest(
    load: Floats,
    table: memoryview,
    levels: object,
    numbers: tuple[float, float, float, float, float, float, float],
    /,
) -> tuple[int, int, int, int] | None: ...
