from preble.tree.nodes import Column

def walk(
    prompt: bytes, stride: int, edge: Column, children: Column, holders: Column, /
) -> tuple[list[tuple[int, int]], int, int, int]: ...
