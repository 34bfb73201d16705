"""``display(...)``: values shown among the output, as bundles; and figures, which show themselves.

1. A display is sent where it is made, after what was printed before it, and counts as one write.
2. There is a budget for an execution; what exceeds it is said, once, where it would have been.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from typing import TYPE_CHECKING, Any

from .result import bounded_repr, within
from .rich import Rich, bundle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel

__all__ = ["Displays"]

#: Bytes of a bundle that travel inside the message.
INLINE = 128 << 10
#: Seconds within which the figures left open at the end are drawn.
FIGURES_SECONDS = 30.0


class Displays:
    """What this execution has displayed, and how much is left of its budget."""

    def __init__(
        self, channel: Channel, flush: Callable[[], None], repr_limits: tuple[int, float], budget: int
    ) -> None:
        self._channel = channel
        self._flush = flush
        self._repr_limits = repr_limits
        self._budget = budget
        self._left = budget
        #: Displays that were cut in this execution, and parts that could not be made.
        self.cut = 0
        self.problems: list[str] = []

    def limit(self, repr_limits: tuple[int, float], budget: int) -> None:
        """Take other bounds: those of the session."""
        self._repr_limits, self._budget = repr_limits, budget

    def begin(self) -> None:
        """Start counting for an execution."""
        self._left = self._budget
        self.cut, self.problems = 0, []

    def state(self) -> list[Any]:
        """Return what a step that ends inside an execution carries over."""
        return [self._left, self.cut, self.problems]

    def resume(self, state: list[Any]) -> None:
        """Go on counting from there."""
        self._left, self.cut, self.problems = state

    def display(self, *values: Any, raw: bool = False, **_options: Any) -> None:
        """Show values among the output, as they show themselves to notebooks, else as their repr.

        With ``raw`` a value is a dictionary of contents by MIME type.
        """
        for value in values:
            self._show(_raw(value) if raw else self._bundle(value))

    def _bundle(self, value: Any) -> Rich:
        limit, seconds = self._repr_limits
        rich = bundle_of(value, limit, seconds)
        if rich is None:
            rich = Rich()
            rich.add("text/plain", bounded_repr(value, limit, seconds))
        return rich

    def _show(self, rich: Rich) -> None:
        self.problems += rich.problems
        text = json.dumps(rich.data, separators=(",", ":"))
        if len(text) > self._left:
            self.cut += 1
            plain = rich.data.get("text/plain", "a display")
            sys.stdout.write(f"{plain}\n[display cut: more than {self._budget} bytes in one execution]\n")
            return
        self._left -= len(text)
        self._flush()
        if len(text) <= INLINE:
            self._channel.send({"t": "display", "data": rich.data}, entered=True)
        else:
            stream = self._channel.send_stream(text.encode())
            self._channel.send({"t": "display", "data_stream": stream}, entered=True)

    # -- figures -----------------------------------------------------------------

    def figures(self) -> types.ModuleType:
        """Return the backend that matplotlib loads: ``show`` displays the open figures and closes them."""
        module = types.ModuleType("perdure.figures", "Shows the figures of matplotlib as displays.")

        def backend(name: str) -> Any:
            if name == "FigureCanvas":
                # Kept in the module too: pyplot asks for it once, and then takes what the module's dict holds.
                canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
                module.FigureCanvas = canvas  # type: ignore[attr-defined]
                return canvas
            raise AttributeError(name)

        def show(*_args: Any, **_options: Any) -> None:
            """Display every open figure, and close it, as a window is closed by who has seen it."""
            self._open_figures(close=True)

        module.__getattr__ = backend  # type: ignore[method-assign]
        module.show = show  # type: ignore[attr-defined]
        return module

    def end(self) -> None:
        """The code has ended: display the figures that it drew on and did not show; they stay open."""
        if "matplotlib.pyplot" not in sys.modules:
            return
        try:
            within(FIGURES_SECONDS, lambda: self._open_figures(close=False))
        except BaseException as error:
            self.problems.append(f"the open figures could not be shown: {type(error).__name__}")

    def _open_figures(self, *, close: bool) -> None:
        pyplot: Any = sys.modules["matplotlib.pyplot"]
        managers = sys.modules["matplotlib._pylab_helpers"].Gcf.figs
        for number in pyplot.get_fignums():
            # Not through pyplot: it would make each of them the current one.
            figure = managers[number].canvas.figure
            if close or figure.stale:
                self.display(figure)
                figure.stale = False
        if close:
            pyplot.close("all")


def _raw(value: Any) -> Rich:
    rich = Rich()
    for mime, content in dict(value).items():
        rich.add(str(mime), content)
    return rich
