"""How figures of sentences look: what a user chooses, and the sizes that follow from it."""

import math
from dataclasses import dataclass

LEFT, RIGHT, TOP = 1.0, 3.05, 1.3  # inches of a sentence figure: axis labels, legend, title
TOKEN_SIZE = 10.0  # points
TOKEN_SPACING = 13.5  # points from token to token at least; below it slanted texts collide
TOKEN_ANGLE = 55  # degrees
CHARACTER_WIDTH = 0.62  # of the font size: DejaVu Sans on average


@dataclass(frozen=True)
class SentenceStyle:
    """How sentence figures look; width and height in inches, of a figure with one row of tokens."""

    kind: str = "lines"  # lines, heatmap or both
    relative: bool = True  # draw each feature's lines as a share of its largest activation
    width: float = 14.0
    height: float = 7.0
    dpi: int = 120
    file_format: str = "png"
    max_token_len: int = 14

    @property
    def tokens_per_row(self) -> int:
        return max(1, int((self.width - LEFT - RIGHT) * 72 / TOKEN_SPACING))

    @property
    def token_height(self) -> float:
        """Inches that the slanted token texts take under each row."""
        length = self.max_token_len * CHARACTER_WIDTH * TOKEN_SIZE
        return (length * math.sin(math.radians(TOKEN_ANGLE)) + TOKEN_SIZE + 12) / 72
