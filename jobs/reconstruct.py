"""A finished run → COLMAP database, sparse model and report: `python jobs/reconstruct.py RUN`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.errors import StorageError
from pipeline.reconstruct.cameras import CameraOptions
from pipeline.reconstruct.database import ReconstructionError
from pipeline.reconstruct.job import reconstruct
from pipeline.reconstruct.mapping import MAPPERS
from pipeline.reconstruct.spool import ReconstructionError
from pipeline.store.folder import Folder
from pipeline.store.opening import storage_options


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Import the verified matches of a run into a COLMAP database and map it.",
        epilog="Exit code 0: a model was made; 1: nothing could be mapped; 2: arguments or run are unusable.",
    )
    parser.add_argument("run", help="output folder of match_dataset.py, a path or an fsspec URL")
    parser.add_argument("--output", help="local folder for the results (default: RUN/sfm)")
    parser.add_argument("--mapper", choices=MAPPERS, default="incremental")
    parser.add_argument(
        "--camera",
        default="SIMPLE_RADIAL",
        metavar="MODEL[:PARAMS]",
        help="COLMAP camera model; with PARAMS (f,cx,cy,… in its order) the cameras are known and kept",
    )
    parser.add_argument(
        "--camera-sharing",
        choices=("image", "folder", "single"),
        default="image",
        help="one camera per image, per folder, or one for all (always one per image size)",
    )
    parser.add_argument(
        "--radius",
        type=float,
        default=2.0,
        help="merge keypoints within this distance, pixels of the matcher's images (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of the mapper: 1 gives the same model every time, more a faster one; -1 for all cores",
    )
    parser.add_argument("--images", help="the photographs, for the points' colours (default: the run's)")
    parser.add_argument("--storage-options", default="{}", help="JSON for the fsspec filesystem of RUN (endpoint, …)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # The mapper runs for hours without returning to Python: let Ctrl-C end the process at once. Nothing is
    # lost: results replace older ones only when whole.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        summary = reconstruct(
            Folder(options.run, storage_options(options.storage_options)),
            options.output,
            images=options.images,
            mapper=options.mapper,
            cameras=CameraOptions.parse(options.camera, options.camera_sharing),
            radius=options.radius,
            threads=options.threads,
            progress=lambda line: print(line, flush=True),
        )
    except (ReconstructionError, ReconstructionError, StorageError) as error:
        print(f"reconstruct: {error}", file=sys.stderr)
        return 2
    print(summary.text(), end="")
    print(f"results:  {summary.output}")
    return 0 if summary.models else 1


if __name__ == "__main__":
    sys.exit(main())
