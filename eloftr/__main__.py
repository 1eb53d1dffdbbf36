"""`python -m eloftr IMAGE0 IMAGE1 --out matches.png`: match two images and draw what was found."""

from __future__ import annotations

import argparse
import sys

from PIL import Image

from eloftr.matcher import match


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eloftr", description="Match two images and draw the matches.")
    parser.add_argument("image0", metavar="IMAGE0", help="path or URL")
    parser.add_argument("image1", metavar="IMAGE1", help="path or URL")
    parser.add_argument("--out", required=True, help="the picture to write; its ending chooses the format")
    parser.add_argument("--model", default="small", help="bundled name, folder, file or hub id (default: %(default)s)")
    parser.add_argument("--size", type=int, default=640, help="longer side to match at, pixels (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="lowest score of a match (default: the model's)")
    parser.add_argument("--lines", type=int, default=200, help="matches to draw at most (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda … (default: cuda where there is one)")
    options = parser.parse_args(arguments)
    Image.init()
    if not options.out.lower().endswith(tuple(Image.EXTENSION)):
        parser.error(f"--out {options.out}: its ending is no picture format; use .png or .jpg.")
    if options.size < 32:
        parser.error(f"--size {options.size}: at least 32 pixels.")
    try:
        found = match(
            options.image0,
            options.image1,
            options.model,
            size=options.size,
            threshold=options.threshold,
            device=options.device,
        )
        found.draw(most=options.lines).save(options.out)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{len(found)} matches, drawn in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
