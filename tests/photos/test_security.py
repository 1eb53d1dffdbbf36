"""What a file, a name or a link from elsewhere must not do: escape, exhaust, execute; and what no
report may tell.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import write_views
from PIL import Image
from stages import match_here
from synthetic_run import Scene

from eloftr import CheckpointError, load_model
from pipeline import reconstruct
from pipeline.cli import main
from pipeline.errors import ImageError, ReconstructionError, StorageError
from pipeline.execute.worker import call
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.read import _read_alone
from pipeline.match.run import Run
from pipeline.photos.decode import decode_image
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import View
from pipeline.store import retries
from pipeline.store.folder import Folder

PROJECT = Path(__file__).resolve().parents[2]
LONG_SIDE = 160
PICKLING = [
    PROJECT / "pipeline" / "execute" / name for name in ("local.py", "on_ray.py", "worker.py")
]
REFUSALS = (ReconstructionError, StorageError, CheckpointError)


def asked(photos: Path, output: Path, **other: Any) -> RunOptions:
    verification = VerificationOptions(long_side=LONG_SIDE)
    return RunOptions(
        str(photos),
        str(output),
        matching=MatchingOptions(LONG_SIDE),
        verification=verification,
        **other,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photographs, a link to one, and links to a photograph outside and to its folder."""
    folder = tmp_path / "photos"
    write_views(folder, 3, (160, 120))
    (tmp_path / "outside").mkdir()
    (folder / "view 2.jpg").rename(tmp_path / "outside" / "secret.jpg")
    (folder / "inner.jpg").symlink_to("view 0.jpg")
    (folder / "out.jpg").symlink_to("../outside/secret.jpg")
    (folder / "folder").symlink_to("../outside")
    return folder


def test_names_in_a_pair_list_do_not_leave_the_folder_of_images(
    photos: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside" / "secret.jpg"
    ways = [
        "../outside/secret.jpg",
        str(outside),
        "view 0.jpg/../../outside/secret.jpg",
        "folder/secret.jpg",
    ]
    ways += ["..\\outside\\secret.jpg", f"file://{outside}", "./../outside/secret.jpg"]
    lines = ["view 0.jpg\tview 1.jpg", *(f"view 1.jpg\t{way}" for way in ways)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    run = Run(asked(photos, tmp_path / "run", pairs=str(tmp_path / "pairs.txt")), "cpu")
    assert [run.plan.names[i] for i in run.plan.pairs.pairs.ravel()] == ["view 0.jpg", "view 1.jpg"]
    assert run.plan.pairs.failures["image1"].to_pylist() == ways
    assert set(run.plan.pairs.failures["reason"].to_pylist()) == {"unknown_image"}


@pytest.mark.parametrize("follow", [False, True])
def test_links_out_of_the_folder_of_images_are_followed_only_where_asked(
    photos: Path, tmp_path: Path, follow: bool
) -> None:
    lines = ["view 0.jpg\tinner.jpg", "view 0.jpg\tout.jpg", "view 0.jpg\tfolder/secret.jpg"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    run = Run(
        asked(photos, tmp_path / "run", pairs=str(tmp_path / "pairs.txt"), follow_links=follow),
        "cpu",
    )
    match_here(run)
    rows = pa.concat_tables(
        run.folder.read_table(name) for name in run.folder.names("matches")
    ).to_pylist()
    reasons = {
        row["image0"] if row["image0"] != "view 0.jpg" else row["image1"]: row["reason"]
        for row in rows
    }
    assert reasons["inner.jpg"] is None
    if follow:
        assert reasons["out.jpg"] is None
        assert reasons["folder/secret.jpg"] is None
    else:
        assert reasons["out.jpg"] == "unreadable"
        assert run.plan.pairs.failures["image1"].to_pylist() == [
            "folder/secret.jpg"
        ]  # not listed, so not known


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"", lines: int | None = None) -> bytes:
    """A black one-bit PNG; `lines` of its `height` are really there."""
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * (height if lines is None else lines)), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def jpeg_that_says(width: int, height: int) -> bytes:
    data = encoded(Image.new("L", (64, 64)), "JPEG")
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def jpeg_of_scans(repeats: int) -> bytes:
    """A progressive JPEG whose last pass comes again and again; each costs the decoder the whole
    image.
    """
    data = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * repeats + b"\xff\xd9"


def animation_that_says(format: str, width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(50)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    if format == "GIF":
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    size = data.index(b"VP8X") + 12
    return (
        data[:size]
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
        + data[size + 6 :]
    )


def tiff_of_tiles(side: int) -> bytes:
    """A TIFF of 100×100 pixels, whose one tile is said to have `side` × `side`."""
    pixels = zlib.compress(bytes(112 * 112))
    long, short = 4, 3
    tags = [
        (256, long, 100),
        (257, long, 100),
        (258, short, 8),
        (259, short, 8),
        (262, short, 1),
        (277, short, 1),
    ]
    tags += [
        (322, long, side),
        (323, long, side),
        (324, long, 8 + 2 + 12 * 10 + 4),
        (325, long, len(pixels)),
    ]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == long else "<Hxx", value)
        for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_the_made_files_are_images_where_they_ask_for_little() -> None:
    for data in (png(64, 64), jpeg_that_says(64, 64), jpeg_of_scans(5), tiff_of_tiles(112)):
        assert min(decode_image(data).gray.shape) >= 64
    for format in ("GIF", "WEBP"):
        assert decode_image(animation_that_says(format, 64, 64)).gray.shape == (64, 64)


# A host's limit of Pillow stays as it is, and comes before ours.
OF_PILLOW = (
    r"more pixels than Pillow opens \(.*exceeds limit of 178956970 pixels.*"
    r"raise PIL.Image.MAX_IMAGE_PIXELS"
)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (png(30_000, 30_000), OF_PILLOW),
        (png(30_000, 30_000, lines=10), OF_PILLOW),
        (png(13_000, 13_000), "pixels in"),
        (jpeg_that_says(60_000, 60_000), OF_PILLOW),
        (jpeg_that_says(13_000, 13_000), "more than 100 a byte"),
        (jpeg_of_scans(100), "scans: more than 50"),
        (animation_that_says("WEBP", 16_383, 16_383), OF_PILLOW),
        (animation_that_says("WEBP", 13_000, 13_000), "more than 100 a byte"),
        (animation_that_says("GIF", 60_000, 60_000), OF_PILLOW),
        (animation_that_says("GIF", 13_000, 13_000), "more than 100 a byte"),
        (tiff_of_tiles(13_008), "more than 100 a byte"),
        (tiff_of_tiles(1 << 20), "tiles of 1099511627776 pixels"),
    ],
    ids=lambda value: value[:8].hex() if isinstance(value, bytes) else "",
)
def test_a_small_file_that_asks_for_gigabytes_or_hours_is_refused(data: bytes, detail: str) -> None:
    assert len(data) < 200_000
    with pytest.raises(ImageError, match=detail) as refused:
        decode_image(data)
    assert refused.value.reason == "too_large"


def test_processes_that_read_open_what_the_limits_allow(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(13_400, 13_400))
    folder, raised = Folder(str(tmp_path)), ImageLimits(max_pixels=1 << 30, max_pixels_per_byte=1e9)
    with pytest.raises(
        ImageError, match="13400×13400 pixels: more than 178956970 pixels"
    ) as refused:
        call(_read_alone, folder, "large.png", View(), ImageLimits(), LONG_SIDE)
    assert refused.value.reason == "too_large"
    pixels, _, row, _ = call(_read_alone, folder, "large.png", View(), raised, LONG_SIDE)
    assert (max(pixels.shape) <= LONG_SIDE, row["width"], row["height"]) == (True, 13_400, 13_400)


def test_a_chunk_of_text_that_unpacks_to_gigabytes_is_refused() -> None:
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    with pytest.raises(ImageError) as refused:
        decode_image(png(64, 64, extra=text))
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (png(3_000, 3_000), "max_pixels_per_byte=10000"),
        (jpeg_of_scans(100), "max_scans=200"),
        (png(17_000, 4_000), "max_side=17000"),
    ],
    ids=["pixels a byte", "scans", "side"],
)
def test_a_raised_limit_lets_it_pass(data: bytes, limit: str) -> None:
    with pytest.raises(ImageError):
        decode_image(data)
    limits = ["max_pixels_per_byte=10000", limit]
    assert decode_image(data, ImageLimits.parse(limits)).gray.size


def test_photographs_keep_within_the_limits(data: Path) -> None:
    for path in [*(data / "sacre_coeur17").rglob("*.jpg")]:
        content = path.read_bytes()
        with Image.open(path) as image:
            assert image.width * image.height < ImageLimits().max_pixels_per_byte / 2 * len(content)
        decode_image(content, long_side=LONG_SIDE)


class Evil:
    """Unpickled, it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_in_one_sentence(
    tmp_path: Path, suffix: str, form: str
) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Evil(trace)}))
    else:
        torch.save({"state_dict": Evil(trace)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as refused:
        load_model(path)
    assert re.fullmatch(r"[^\n]*not a readable checkpoint[^\n]*\.", str(refused.value))
    assert len(str(refused.value)) < 300 + len(str(path))
    assert not trace.exists()


def read_again(photos: Path, run: Path) -> None:
    Run(asked(photos, run), "cpu")
    reconstruct(str(run), run / "sfm")


def test_no_file_of_a_run_folder_is_unpickled(tmp_path: Path) -> None:
    whole, trace = tmp_path / "whole", tmp_path / "executed"
    write_views(tmp_path / "photos", 2, (160, 120))
    run = Run(asked(tmp_path / "photos", whole), "cpu")
    match_here(run)
    for name in (
        "run.json",
        "plan/shards.parquet",
        "plan/headings.parquet",
        "matches/00000000.parquet",
        "images/00000000.parquet",
    ):
        folder = Path(shutil.copytree(whole, tmp_path / f"with {name.replace('/', ' ')}"))
        (folder / name).write_bytes(pickle.dumps(Evil(trace)))
        with pytest.raises(REFUSALS, match=r"^[^\n]*\.$"):
            read_again(tmp_path / "photos", folder)
    assert not trace.exists()


def test_a_column_type_that_comes_with_a_pickle_is_not_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    Scene(cameras=3).write(tmp_path / "run")
    path = tmp_path / "run" / "images" / "00000.parquet"
    table = pq.read_table(path)
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    extension[b"ARROW:extension:metadata"] = pickle.dumps(Evil(trace), protocol=0)
    field = table.schema.field("camera").with_metadata(extension)
    pq.write_table(
        table.cast(table.schema.set(table.schema.get_field_index("camera"), field)), path
    )
    reconstruct(str(tmp_path / "run"))
    assert not trace.exists()


def test_only_what_passes_between_our_own_processes_is_pickled() -> None:
    for path in PROJECT.rglob("*.py"):
        if path.relative_to(PROJECT).parts[0] not in ("eloftr", "pipeline", "jobs", "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names}
                names |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
                loads = names & {
                    "pickle",
                    "cloudpickle",
                    "dill",
                    "joblib",
                    "marshal",
                    "shelve",
                    "yaml",
                }
                assert not loads or path in PICKLING, f"{path}: {loads}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec"), f"{path}:{node.lineno}"
                pickled = [word for word in node.keywords if word.arg == "allow_pickle"]
                assert all(ast.unparse(word.value) == "False" for word in pickled), (
                    f"{path}:{node.lineno}"
                )
                safe = {word.arg for word in node.keywords} >= {"weights_only"}
                assert called != "torch.load" or safe, (
                    f"{path}:{node.lineno}: torch.load without weights_only"
                )


def test_a_reconstruction_tells_no_credentials(
    tmp_path: Path,
    s3: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first command is a process of its own; the others are refused before they map."""
    import fsspec

    monkeypatch.setattr(retries, "_pauses", lambda first: lambda state: 0.0)

    Scene(cameras=3).write(tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    described["images"] = "s3://bucket/photographs"
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    fsspec.filesystem("s3", **s3).put(str(tmp_path / "run"), "bucket/told", recursive=True)
    secrets = ["hidden-user", "hidden-password", "hidden-signature"]
    told = []
    for number, (url, options) in enumerate(
        [
            ("s3://bucket/told", s3),
            ("s3://hidden-user:hidden-password@bucket/told?X-Amz-Signature=hidden-signature", s3),
            ("s3://bucket/absent", s3),
            ("https://hidden-user:hidden-password@127.0.0.1:9/run?sig=hidden-signature", {}),
        ]
    ):
        output = tmp_path / f"sfm {number}"
        images = "https://hidden-user:hidden-password@127.0.0.1:9/photographs?sig=hidden-signature"
        places = [url, "--output", str(output), "--images", images]
        command = [*places, "--storage-options", json.dumps(options)]
        if number == 0:
            done = subprocess.run(
                [sys.executable, str(PROJECT / "jobs" / "reconstruct.py"), *command],
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            told += [done.stdout, done.stderr]
        else:
            code = main(["reconstruct", *command])
            told += capfd.readouterr()
            assert code == 2, told[-1]
        told += [
            path.read_bytes().decode(errors="replace")
            for path in output.rglob("*")
            if path.is_file()
        ]
    assert any("3 of 3 images registered" in text for text in told)
    for secret in secrets:
        assert not any(secret in text for text in told)


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("s3://hidden-user:hidden-password@bucket/sfm", "s3://bucket/sfm"),
        ("memory://sfm?sig=hidden", "memory://sfm"),
    ],
)
def test_a_reconstruction_is_not_written_to_a_folder_named_like_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, shown: str
) -> None:
    Scene(cameras=2).write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    try:
        told = str(reconstruct(str(tmp_path / "run"), output).output)
    except StorageError as refused:  # there is no such bucket
        told = str(refused)
    assert told.startswith(shown)
    assert "hidden" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
