"""What a row is given: the world, how often and how much to measure, and where to leave plots."""

import dataclasses
import pathlib
import sys
import typing


@dataclasses.dataclass
class Context:
    world: typing.Any
    runs: int            # of each contender; the median counts
    scale: float         # of every number of messages: 1, and less with --quick
    replies: list        # files for the row classify
    plot_dir: pathlib.Path | None  # None: draw nothing

    def scaled(self, n, least=1):
        return max(least, int(n * self.scale))

    def say(self, text):
        """Progress, on standard error."""
        print(f"   {text}", file=sys.stderr, flush=True)
