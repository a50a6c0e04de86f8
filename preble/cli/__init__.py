"""The commands of `preble` that are no part of another room: `get-model` and `chat`."""
