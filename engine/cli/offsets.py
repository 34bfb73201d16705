"""How much of an execution's output this command line has shown, so that a resumed run prints only the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Offsets"]


class Offsets:
    """One small file an execution, in the state's ``run`` folder; lost, everything is shown again."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "run"

    def read(self, execution: str) -> int:
        """Return the number of characters shown."""
        try:
            return int((self._folder / f"{execution}.shown").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def knows(self, execution: str) -> bool:
        """Whether it was followed here, and not to its end."""
        return (self._folder / f"{execution}.shown").exists()

    def write(self, execution: str, offset: int) -> None:
        """Note that so many characters were shown; written whole or not at all."""
        place = self._folder / f"{execution}.shown"
        temporary = place.with_suffix(".new")
        temporary.write_text(str(offset))
        temporary.replace(place)

    def drop(self, execution: str) -> None:
        """Forget an execution that has ended."""
        (self._folder / f"{execution}.shown").unlink(missing_ok=True)
