"""How a scene is cut into blocks and put together again."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ArgumentError

AUTO, OFF = "auto", "off"
SIZE = 200  # images of a block without its ring
# Up to so many images one mapper is about as fast as blocks on two processes.
MOST_IN_ONE = 500
MOST_ADJUSTED = 20_000  # images of a joined model that is adjusted as a whole
GLOBAL, BY_BLOCKS = "global", "blocks"
FINAL = (AUTO, GLOBAL, BY_BLOCKS, "none")


@dataclass(frozen=True)
class BlockOptions:
    """size: images of a block without its ring; 0 for one mapper, None to decide by the scene.

    ring: images beside them that a block shares with its neighbours, as a share of `size`.
    final: adjustment of a joined model, one of FINAL. auto: global up to MOST_ADJUSTED images, and
    by blocks above.

    Raises ArgumentError for values that no scene can be cut by.
    """

    size: int | None = None
    ring: float = 0.3
    final: str = AUTO

    def __post_init__(self) -> None:
        if self.size is not None and self.size != 0 and self.size < 10:
            raise ArgumentError(f"blocks of {self.size} images are too small; give 10 or more.")
        if not 0.1 <= self.ring <= 2.0:
            raise ArgumentError(f"a ring of {self.ring:g} times the block; give 0.1 to 2.")
        if self.final not in FINAL:
            raise ArgumentError(
                f"final adjustment {self.final!r} is unknown; give {', '.join(FINAL)}."
            )

    @classmethod
    def parse(cls, blocks: str = AUTO, final: str = AUTO) -> BlockOptions:
        """Options from texts: `auto`, `off` or a number of images. Raises ArgumentError."""
        if blocks in (AUTO, OFF):
            return cls(None if blocks == AUTO else 0, final=final)
        if not blocks.isascii() or not blocks.isdigit() or not int(blocks):
            raise ArgumentError(
                f"blocks {blocks!r}: give auto, off, or the number of images of a block."
            )
        return cls(int(blocks), final=final)

    def size_for(self, images: int) -> int:
        """Images of a block for a scene of so many images; 0 for one mapper."""
        if self.size is None:
            return SIZE if images > MOST_IN_ONE else 0
        return self.size

    def adjustment(self, images: int) -> str:
        """How a joined model of so many images is adjusted: one of FINAL, without auto."""
        if self.final != AUTO:
            return self.final
        return GLOBAL if images <= MOST_ADJUSTED else BY_BLOCKS


def chosen_blocks(given: str | int | BlockOptions) -> BlockOptions:
    """The options that a caller means. Raises ArgumentError for words that mean nothing."""
    return given if isinstance(given, BlockOptions) else BlockOptions.parse(str(given))
