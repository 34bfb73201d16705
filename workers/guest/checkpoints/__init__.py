"""How one namespace becomes bytes and comes back; `..checkpoint` is the door."""

__all__: list[str] = []
