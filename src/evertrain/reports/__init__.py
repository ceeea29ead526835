"""Reports: what a person sees of one check, as a page, as a picture, and as lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evertrain.reports.tree import Line, lines
from evertrain.specs import Drift
from evertrain.triggers import Decision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Line", "Report", "lines"]


@dataclass(frozen=True)
class Report:
    """One check for people: what was found, what it means, and every number behind it.

    Attributes:
        decision: with its evidence graded; without evidence the report holds the answer and its reason.
        model, partition: of what; they head the report.
        config: the trigger that was evaluated; with it the report says what would have to change.

    >>> from evertrain.specs import Cause
    >>> page = Report(Decision(Cause.DRIFT, "drift", False, "quiet", "nothing changed"), model="iris").to_html()
    >>> "Nothing changed" in page, "http" in page
    (True, False)
    """

    decision: Decision
    model: str = ""
    partition: str = ""
    config: Drift | None = None

    def to_html(self) -> str:
        """Return one page that needs no network, no script and no other file; the same report gives the same text."""
        from evertrain.reports.page import page

        return page(self.decision, self.model, self.partition, self.config)

    def save(self, path: str | Path) -> None:
        """Write the page into a file."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def plot(self) -> Figure:
        """Return the pictures of the page as a matplotlib figure: effects, distributions, losses.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        from evertrain.reports.figure import figure

        return figure(self.decision, self.model, self.partition)
