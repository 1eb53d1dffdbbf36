"""`eloftr refine`, as a script for `ray job submit`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["refine", *sys.argv[1:]]))
