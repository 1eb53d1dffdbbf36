"""`python -m eloftr IMAGE0 IMAGE1 --out matches.png`: match two images and draw what was found.

Exit codes: 0, matches were drawn; 1, there are none (the picture is written all the same); 2, wrong
usage or input.
"""

from __future__ import annotations

import argparse
import sys

from PIL import Image

from eloftr import EloftrError, __version__

LEAST_SIZE = 32  # pixels: the network takes multiples of it
OK, NO_MATCHES, WRONG_INPUT = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    made = argparse.ArgumentParser(
        prog="python -m eloftr",
        description="Match two images and draw the matches.",
        epilog="Exit codes: 0 matches were drawn, 1 there are none, 2 wrong usage or input.",
    )
    add = made.add_argument
    add("image0", metavar="IMAGE0", help="path or URL")
    add("image1", metavar="IMAGE1", help="path or URL")
    add("--out", required=True, help="the picture to write; its ending chooses the format")
    add(
        "--model",
        default="small",
        help="bundled name, folder, file or hub id (default: %(default)s)",
    )
    add(
        "--size",
        type=int,
        default=640,
        help="longer side to match at, pixels (default: %(default)s)",
    )
    add("--threshold", type=float, help="lowest score of a match (default: the model's)")
    add("--lines", type=int, default=200, help="matches to draw at most (default: %(default)s)")
    add("--device", help="cpu, cuda … (default: cuda where there is one)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code, or exits with 2 for wrong usage."""
    command = parser()
    options = command.parse_args(arguments)
    Image.init()  # fills the list of endings
    if not options.out.lower().endswith(tuple(Image.EXTENSION)):
        command.error(f"--out {options.out}: its ending is no picture format; use .png or .jpg.")
    if options.size < LEAST_SIZE:
        command.error(f"--size {options.size}: at least {LEAST_SIZE} pixels.")
    if options.lines < 0:
        command.error(f"--lines {options.lines}: a number of matches, 0 or more.")

    from eloftr import match  # torch is loaded here, so that help and usage errors come at once

    try:
        found = match(
            options.image0,
            options.image1,
            options.model,
            size=options.size,
            threshold=options.threshold,
            device=options.device,
        )
    except EloftrError as error:
        print(f"{command.prog}: {error}", file=sys.stderr)
        return WRONG_INPUT
    picture = found.draw(most=options.lines)
    try:
        picture.save(options.out)
    except OSError as error:
        print(f"{command.prog}: --out {options.out}: cannot be written ({error}).", file=sys.stderr)
        return WRONG_INPUT
    print(f"{len(found)} matches, drawn in {options.out}")
    return OK if len(found) else NO_MATCHES


if __name__ == "__main__":
    sys.exit(main())
