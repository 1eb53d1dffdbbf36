"""Global descriptors: one vector an image, made or read from a file, and the nearest of each.

    folder of images, model → describe_images → Descriptors
    Descriptors → write_descriptors → .parquet, .npz, .npy
    Descriptors → nearest → the k most similar images of every image

Similarity is the cosine of two vectors. It is computed by blocks, so there is never an N × N
matrix. Files with descriptors of models made for retrieval are the recommended way.
`describe_images` is a stopgap that needs only the matcher's own weights.
"""

from __future__ import annotations

import copy
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from pipeline.errors import DescriptorError, ImageError, StorageError
from pipeline.photos.limits import ImageLimits
from pipeline.photos.source import list_images, read_image
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of
from pipeline.tables import FAILURES
from pipeline.vocabulary import Reason, StageName

if TYPE_CHECKING:  # at run time torch is imported only where a model is used
    from eloftr import EfficientLoFTRForKeypointMatching


LONG_SIDE = 320  # longer side of the images that are described, pixels
DECODE_THREADS, READ_AHEAD = 4, 64  # threads and images decoded while others are described
QUERY_BLOCK, DATABASE_BLOCK = 1024, 8192  # rows and columns of similarities at once: 34 MB
SAMPLE = 4096  # number of vectors that a reduction is learnt from


@dataclass(frozen=True)
class Descriptors:
    """Descriptors of images.

    names: (N) sorted and unique.
    vectors: (N, D) float32, finite, of any length.
    failures: table of FAILURES, a row for each image without a descriptor.
    """

    names: list[str]
    vectors: np.ndarray
    failures: pa.Table = field(default_factory=FAILURES.empty_table)


def describe_images(
    folder: Folder,
    model: EfficientLoFTRForKeypointMatching,
    names: Sequence[str] | None = None,
    limits: ImageLimits | None = None,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> Descriptors:
    """Descriptors of a folder's photographs from the matcher's own backbone.

    They are computed on CUDA where there is a GPU. A vector depends on its image and the weights
    alone, so vectors of several folders can be compared.

    names: the images, sorted. None takes all images of the folder.
    progress: called now and then with the number of images done since the last call, and with how
        many of them failed.

    Images that cannot be read have a row in `failures` and none in `vectors`.
    """
    import torch

    from eloftr.matching.global_descriptor import global_descriptors
    from eloftr.matching.matcher import pairs_at_once

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = copy.deepcopy(model).eval().fuse().to(device)
    names = list_images(folder) if names is None else list(names)
    vectors = np.empty((len(names), 0), np.float32)
    good = np.zeros(len(names), bool)
    failures = []
    for read in _read_ahead(folder, names, limits or ImageLimits()):
        by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
        for row, pixels in read:
            if isinstance(pixels, np.ndarray):
                by_shape[pixels.shape].append((row, pixels))
                continue
            failures.append(
                {
                    "image0": names[row],
                    "stage": StageName.READ,
                    "reason": pixels.reason,
                    "detail": pixels.detail,
                }
            )
        for shape, images in by_shape.items():
            at_once = pairs_at_once(device, shape)
            for start in range(0, len(images), at_once):
                rows, batch = zip(*images[start : start + at_once], strict=True)
                tensor = torch.from_numpy(np.stack(batch)).to(device)[:, None].to(model.dtype) / 255
                found = global_descriptors(model, tensor).cpu().numpy()
                if not good.any():
                    vectors = np.empty((len(names), found.shape[1]), np.float32)
                vectors[[*rows]], good[[*rows]] = found, True
        progress(len(read), len(read) - sum(map(len, by_shape.values())))
    kept = vectors if good.all() else vectors[good]
    known = [name for name, described in zip(names, good, strict=True) if described]
    return Descriptors(known, kept, pa.Table.from_pylist(failures, schema=FAILURES))


def _read_ahead(
    folder: Folder, names: Sequence[str], limits: ImageLimits
) -> Iterator[list[tuple[int, np.ndarray | ImageError]]]:
    """Yield READ_AHEAD images after another, each with its index into names, or its error.

    The next images are decoded while the caller works on the ones before.
    """

    def read(row: int) -> tuple[int, np.ndarray | ImageError]:
        try:
            return row, read_image(folder, names[row], limits, LONG_SIDE)[0]
        except ImageError as error:
            return row, error

    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        ahead = None
        for start in range(0, len(names), READ_AHEAD):
            following = [
                threads.submit(read, row)
                for row in range(start, min(start + READ_AHEAD, len(names)))
            ]
            if ahead:
                yield [future.result() for future in ahead]
            ahead = following
        if ahead:
            yield [future.result() for future in ahead]


def nearest(
    queries: np.ndarray,
    database: np.ndarray | None,
    k: int,
    block: tuple[int, int] = (QUERY_BLOCK, DATABASE_BLOCK),
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `database` most similar to each row of `queries`, best first.

    queries: (Q, D) float32.
    database: (N, D) float32. None searches the queries themselves, each without itself.
    block: rows of queries and rows of the database that are compared at once.

    Returns indices (Q, k) int64 and cosines (Q, k) float32. k is at most N, or N − 1 without
    itself. Computes on CUDA where there is a GPU. The memory is that of the vectors and one block.
    """
    import torch

    itself = database is None
    database = queries if database is None else database
    k = min(k, len(database) - itself)
    if k < 1 or not len(queries):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, similarities = [], []
    with torch.inference_mode():
        known = torch.from_numpy(unit(database)).to(device)
        asked = known if itself else torch.from_numpy(unit(queries)).to(device)
        for first in range(0, len(asked), block[0]):
            rows = asked[first : first + block[0]]
            best = torch.empty((len(rows), 0), device=device)
            index = torch.empty((len(rows), 0), dtype=torch.int64, device=device)
            for start in range(0, len(known), block[1]):
                cosines = rows @ known[start : start + block[1]].mT
                if itself:
                    own = torch.arange(first - start, first - start + len(rows), device=device)
                    inside = (own >= 0) & (own < cosines.shape[1])
                    cosines[inside.nonzero()[:, 0], own[inside]] = -torch.inf
                values, columns = cosines.topk(min(k, cosines.shape[1]), dim=1)
                merged = torch.cat([best, values], dim=1)
                best, order = merged.topk(min(k, merged.shape[1]), dim=1)
                index = torch.cat([index, columns + start], dim=1).gather(1, order)
            found.append(index.cpu().numpy())
            similarities.append(best.cpu().numpy())
    return np.concatenate(found), np.concatenate(similarities)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) scaled to length 1, float32; a vector of zeros stays as it is."""
    vectors = np.asarray(vectors, np.float32)
    # einsum makes no second array of the size of the vectors.
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    scaled: np.ndarray = vectors / np.maximum(length, np.float32(1e-12))[:, None]
    return scaled


def reduced(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """Principal components of vectors (N, D), half whitened: (N, at most `dimensions`) float32.

    Half whitened means that each component is divided by the square root of its standard deviation.
    The components are learnt on these vectors (a sample of SAMPLE), so all vectors that are to be
    compared must be reduced together.
    """
    sample = unit(vectors[np.random.default_rng(0).permutation(len(vectors))[:SAMPLE]])
    mean = sample.mean(axis=0)
    sample -= mean
    if len(sample) < sample.shape[1]:  # this product is the smaller one, with the same variances
        variances, left = np.linalg.eigh(sample @ sample.T)
        axes = sample.T @ left / np.sqrt(np.maximum(variances, 1e-12))
    else:
        variances, axes = np.linalg.eigh(sample.T @ sample)
    keep = np.flatnonzero(variances > 1e-6 * variances[-1])[::-1][:dimensions]
    axes = axes[:, keep] * (variances[keep] / len(sample)) ** -0.25
    blocks = (
        unit(vectors[start : start + DATABASE_BLOCK])
        for start in range(0, len(vectors), DATABASE_BLOCK)
    )
    return np.concatenate([(block - mean) @ axes for block in blocks])


def write_descriptors(
    url: str | os.PathLike[str], found: Descriptors, options: dict[str, Any] | None = None
) -> None:
    """Write descriptors to a file, whole.

    `.parquet` has the columns image and descriptor, `.npz` the arrays names and descriptors, and
    `.npy` rows in the order of the names. Raises `DescriptorError` for another ending, and
    StorageError where the file cannot be written.
    """
    folder, name = Folder.of_file(url, options)
    kind = check_ending(name)
    if kind == ".parquet":
        width = found.vectors.shape[1]
        values = pa.array(np.ascontiguousarray(found.vectors, np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(values, width)
        folder.publish_table(
            name, pa.table({"image": pa.array(found.names, pa.string()), "descriptor": column})
        )
        return
    file = io.BytesIO()
    if kind == ".npz":
        np.savez(file, names=np.array(found.names, dtype=str), descriptors=found.vectors)
    else:
        np.save(file, found.vectors)
    folder.publish(name, file.getvalue())


def check_ending(name: str) -> str:
    """The ending of a file of descriptors. Raises `DescriptorError` for any other ending."""
    kind = os.path.splitext(name)[1].lower()
    if kind not in (".parquet", ".npz", ".npy"):
        raise DescriptorError(
            f"{name}: is no file of descriptors by its ending; give .parquet, .npz or .npy."
        )
    return kind


def read_descriptors(
    url: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Descriptors:
    """Descriptors at a local path or fsspec URL, in a file as `write_descriptors` leaves it.

    names: the images wanted, sorted. None takes all images of the file. A `.npy` needs the names,
        because its row n belongs to names[n].

    The Parquet column may hold lists or fixed-size lists of numbers. Nothing is unpickled. An image
    that the file does not have becomes a failure `no_descriptor`. Images that are not wanted are
    left out.

    Raises `DescriptorError` where the file is missing, of another form, or holds a name twice or a
    number that is not finite.
    """
    folder, name = Folder.of_file(url, options)
    kind = check_ending(name)
    listed: list[str] | None
    try:
        if kind == ".parquet":
            listed, vectors = _of_table(folder.read_table(name), name)
        else:
            listed, vectors = _of_numpy(folder, name, kind)
    except (StorageError, OSError) as error:
        raise DescriptorError(
            f"{folder.shown}/{name}: cannot be read ({cause_of(error)}); check the path."
        ) from error
    if listed is None:
        if names is None:
            raise DescriptorError(
                f"{name}: holds no names; give the images whose sorted names its rows belong to."
            )
        if len(names) != len(vectors):
            raise DescriptorError(
                f"{name}: has {len(vectors)} rows for {len(names)} images; "
                "it needs one a photograph, in sorted order."
            )
        listed = list(names)
    if vectors.ndim != 2 or len(listed) != len(vectors) or vectors.dtype.kind not in "fiu":
        raise DescriptorError(
            f"{name}: needs a vector of numbers for each name, all of one length."
        )
    vectors = np.asarray(vectors, np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise DescriptorError(
            f"{name}: the vector of {listed[int(finite.argmin())]} is not finite; compute it again."
        )
    return _chosen(name, listed, vectors, names)


def _chosen(
    file: str, listed: list[str], vectors: np.ndarray, names: Sequence[str] | None
) -> Descriptors:
    row = {image: number for number, image in enumerate(listed)}
    if len(row) != len(listed):
        twice = next(image for number, image in enumerate(listed) if row[image] != number)
        raise DescriptorError(f"{file}: has {twice} twice; each image may have one vector.")
    wanted = sorted(listed) if names is None else list(names)
    known = [image for image in wanted if image in row]
    failures = [
        {
            "image0": image,
            "image1": None,
            "stage": StageName.PLAN,
            "reason": Reason.NO_DESCRIPTOR,
            "detail": f"{file} has none",
        }
        for image in wanted
        if image not in row
    ]
    chosen = vectors if known == listed else vectors[[row[image] for image in known]]
    return Descriptors(known, chosen, pa.Table.from_pylist(failures, schema=FAILURES))


def _of_table(table: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    try:
        images = table["image"].cast(pa.string()).to_pylist()
        column = table["descriptor"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        widths = (
            np.diff(column.offsets.to_numpy())
            if hasattr(column, "offsets")
            else [column.type.list_size]
        )
        if column.null_count or len(set(widths)) > 1 or None in images:
            raise DescriptorError(f"{name}: needs a name and a vector of one length in every row.")
        return images, values.reshape(len(images), -1)
    # pyarrow and numpy raise these for missing columns and for columns of other types.
    except (KeyError, AttributeError, ValueError, pa.ArrowInvalid) as error:
        raise DescriptorError(
            f"{name}: needs columns image (text) and descriptor (numbers) ({error})."
        ) from error


def _of_numpy(folder: Folder, name: str, kind: str) -> tuple[list[str] | None, np.ndarray]:
    source = folder.path(name) if folder.local else io.BytesIO(folder.read_bytes(name))
    try:
        loaded = np.load(source, allow_pickle=False)
        if kind == ".npy":
            return None, loaded
        with loaded:
            return [str(image) for image in loaded["names"]], loaded["descriptors"]
    # numpy raises these for bytes that are not its own, and for a missing array.
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        needs = "an array" if kind == ".npy" else "arrays names (text) and descriptors"
        raise DescriptorError(
            f"{name}: needs {needs} as numpy writes them, without objects ({error})."
        ) from error
