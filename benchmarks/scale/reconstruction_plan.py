"""What reconstructing 10,000 to 1,000,000 images in blocks would take, by stage: machines, hours,
dollars, memory, and what limits each stage. `scale_plan.py` prints it.

Costs of mapping are those that benchmarks/scale/mapping.py wrote to results/mapping.json, those of
refining are in results/refining.json. Mapping and adjusting grow as a power of the number of images
that fits the measured sizes, at least with the first power, and passes through the largest. Memory,
and work that looks at each image once, grow along a line. Each measured size is also predicted from
the others, so that everybody sees how far this carries. Made surveys have few observations an
image: a power is multiplied by how many more are assumed, and a line has as many more images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZES = (10_000, 100_000, 1_000_000)
ASSUMED: dict[str, float] = {
    "pairs an image": 20,
    "matches a pair": 300,
    "observations of an image": 2_000,  # 17 photographs with 6 verified pairs an image had 903
    "times as many after refinement": 1.7,
    "GB of a process that maps a block": 0.59,  # the largest seen, photographs, 100 images
    "effective TFLOP/s of a GPU": 40.0,
    "GPU machines": 16,  # of one GPU and four cores, as a g5.xlarge
    "CPU machines": 8,  # of eight cores, as a c6i.2xlarge
    "cores of a CPU machine": 8,
    "least GB of the head": 64,  # as an r6i.2xlarge; larger ones of the family cost as much a GB
    "$ an hour of a GPU machine, 2026-06": 1.006,
    "$ an hour of a CPU machine, 2026-06": 0.34,
    "$ an hour of 64 GB of the head, 2026-06": 0.504,
}
OF_REFINING = 2  # processes that measured in results/refining.json
GPUS, CPUS, HEAD = "GPU machines", "CPU machines", "head"
CUTTING = "cutting into blocks"
# Stages of mapping.json that the head carries out, in the process of COLMAP, and their names here.
SERIAL = {
    "joins": "joining",
    "adjustment": "merging, final adjustment",
    "report": "publishing, report",
}
Units = dict[str, float]
Rows = Sequence[dict[str, Any]]
Law = Callable[[Sequence[float], Sequence[float]], Callable[[float], float]]


@dataclass(frozen=True)
class Stage:
    """One stage at one size. machines: which. gigabytes: of its largest process, `process`."""

    name: str
    machines: str
    hours: float
    limit: str
    gigabytes: float
    process: str


def power(images: Sequence[float], costs: Sequence[float]) -> Callable[[float], float]:
    """A cost by the number of images. Needs one measured size, whose cost is not zero."""
    last = int(np.argmax(images))
    slope = 1.0
    if len(images) > 1:
        slope = max(1.0, float(np.polyfit(np.log(images), np.log(costs), 1)[0]))
    return lambda count: float(costs[last] * (count / images[last]) ** slope)


def line(images: Sequence[float], values: Sequence[float]) -> Callable[[float], float]:
    """A quantity by the number of images; proportional where one size was measured."""
    if len(images) == 1:
        return lambda count: values[0] / images[0] * count
    slope, base = np.polyfit(images, values, 1)
    return lambda count: float(base + max(slope, 0.0) * count)


def quantities(rows: Rows) -> dict[str, tuple[list[float], Law]]:
    """What is measured of every size, and how it grows."""
    found: dict[str, tuple[list[float], Law]] = {
        "blocks, CPU s": ([row["cpu"]["blocks"]["workers"] for row in rows], power),
        "cutting, CPU s": ([row["cpu"]["blocks"]["driver"] for row in rows], line),
    }
    for stage, name in SERIAL.items():
        law = line if stage == "report" else power
        found[f"{name}, CPU s"] = ([row["cpu"][stage]["colmap"] for row in rows], law)
        found[f"{name}, MB"] = ([row["memory"][stage]["colmap"] for row in rows], line)
    found["cutting, MB"] = ([row["memory"]["blocks"]["driver"] for row in rows], line)
    return found


def in_blocks(mapping: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of mapping.json that were mapped in blocks, the smallest first."""
    rows = [row for row in mapping["rows"] if row["blocks"] != "off"]
    return sorted(rows, key=lambda row: row["images"])


def checks(mapping: dict[str, Any]) -> list[tuple[int, str, float, float]]:
    """Of every size and quantity what was measured, and what the other sizes predict."""
    rows = in_blocks(mapping)
    images = [row["images"] for row in rows]
    found = []
    for left_out, size in enumerate(images if len(rows) > 1 else []):
        others = [k for k in range(len(rows)) if k != left_out]
        for name, (values, law) in quantities(rows).items():
            predict = law([images[k] for k in others], [values[k] for k in others])
            found.append((size, name, values[left_out], predict(size)))
    return found


def stages(
    images: float, unit: Units, mapping: dict[str, Any], refining: dict[str, Any], assumed: Units
) -> list[Stage]:
    """All stages of one size. unit: of results/scale.json and of imports."""
    rows = in_blocks(mapping)
    sizes = [row["images"] for row in rows]
    large = rows[-1]
    more = assumed["observations of an image"] / (large["observations"] / large["registered"])
    at = {
        # Twice the observations of an image cost twice as much, whatever the number of images.
        name: law(sizes, values)(images) * more
        if law is power
        else law(sizes, values)(images * more)
        for name, (values, law) in quantities(rows).items()
    }
    pairs = images * assumed["pairs an image"]
    cores = assumed[CPUS] * assumed["cores of a CPU machine"]
    made = [matching(images, pairs, unit, assumed), importing(pairs, unit)]

    by_cores, by_driver = at["blocks, CPU s"] / cores, at["cutting, CPU s"]
    limit = "cores" if by_cores > by_driver else "the driver, which cuts one database after another"
    memory = assumed["GB of a process that maps a block"]
    hours = max(by_cores, by_driver) / 3600
    made.append(Stage("blocks", CPUS, hours, limit, memory, "maps a block"))
    # Over Ray the databases of all blocks exist at once, in the driver and in the object store.
    # Together they are about as large as the database: without raw matches, with rings.
    databases = pairs * unit["kB a pair in the database"] / 1e6
    driver = at["cutting, MB"] / 1e3 + databases
    made.append(Stage(CUTTING, HEAD, by_driver / 3600, "one core", driver, "driver"))
    for name in SERIAL.values():
        hours = at[f"{name}, CPU s"] / 3600
        made.append(Stage(name, HEAD, hours, "one core", at[f"{name}, MB"] / 1e3, "COLMAP's"))
    return [*made, *refinement(images, at, refining, assumed)]


def matching(images: float, pairs: float, unit: Units, assumed: Units) -> Stage:
    """The stage on GPUs; reading and verifying keep fewer cores busy than a machine has."""
    encodes = images * unit["encodes an image"]
    gflop = encodes * unit["GFLOP an encode"] + pairs * unit["GFLOP a pair"]
    gpu = gflop / (assumed["effective TFLOP/s of a GPU"] * 1e3) / 3600
    cpu = (encodes * unit["s to read an image"] + pairs * unit["s to verify a pair"]) / 3600
    limit = f"GPUs; {cpu / gpu:.1f} cores beside each"
    driver = unit["GB of the driver of no pairs"] + pairs * unit["kB a pair in the driver"] / 1e6
    return Stage("matching", GPUS, gpu / assumed[GPUS], limit, driver, "driver")


def importing(pairs: float, unit: Units) -> Stage:
    """The stage that merges keypoints and writes the database, on two cores of the head.

    More cores merge faster, until COLMAP's process, which writes alone, is the limit.
    """
    hours = pairs * unit["µs to import a pair"] / 3.6e9
    memory = unit["GB of an import of no pairs"] + pairs * unit["kB a pair in the import"] / 1e6
    return Stage("merging keypoints, import", HEAD, hours, "two cores", memory, "the largest")


def refinement(images: float, at: Units, refining: dict[str, Any], assumed: Units) -> list[Stage]:
    """Measuring on all cores, and the adjustment of both rounds on the head."""
    (row,) = refining["rows"]
    cores = assumed[CPUS] * assumed["cores of a CPU machine"]
    longer = assumed["times as many after refinement"]
    more = images * assumed["observations of an image"] * longer / row["observations"]
    measuring = row["measuring"] * OF_REFINING * more / cores / 3600
    memory = at["merging, final adjustment, MB"] / 1e3 * longer
    return [
        Stage("refinement, measuring", CPUS, measuring, "cores", row["peak_mb"] / 1e3, "measures"),
        Stage(
            "refinement, adjusting",
            HEAD,
            row["adjusting"] * more / 3600,
            "one core",
            memory,
            "COLMAP's, by its observations",
        ),
    ]


def dollars(stage: Stage, head: float, assumed: Units) -> float:
    """The price of a stage. head: GB of the head, which is there all the time.

    Matching is a job of its own, with the least head.
    """
    held = assumed["least GB of the head"] if stage.machines == GPUS else head
    price = held / 64 * assumed["$ an hour of 64 GB of the head, 2026-06"]
    for machines, each in (
        (GPUS, "$ an hour of a GPU machine, 2026-06"),
        (CPUS, "$ an hour of a CPU machine, 2026-06"),
    ):
        if stage.machines == machines:
            price += assumed[machines] * assumed[each]
    return price * stage.hours


def tables(
    unit: Units,
    mapping: dict[str, Any],
    refining: dict[str, Any],
    number: Callable[[float], str],
    assumed: Units = ASSUMED,
) -> str:
    """Assumptions, the plan of every size, and the checks, as Markdown."""
    lines = ["| assumed | |", "|---|---|"]
    lines += [f"| {name} | {number(value)} |" for name, value in assumed.items()]
    for images in SIZES:
        made = stages(images, unit, mapping, refining, assumed)
        lines += ["", *_stage_lines(images, made, number, assumed)]
    lines += ["", "| images | quantity | measured | predicted from the other sizes | ratio |"]
    lines += ["|---|---|---|---|---|"]
    for size, name, measured, predicted in checks(mapping):
        numbers = f"{number(measured)} | {number(predicted)} | {predicted / measured:.2f}"
        lines.append(f"| {size:,} | {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def _stage_lines(
    images: int, made: list[Stage], number: Callable[[float], str], assumed: Units
) -> list[str]:
    """The table of one size."""
    on_head = [stage.gigabytes for stage in made if stage.machines == HEAD]
    head = max(assumed["least GB of the head"], *on_head)
    lines = [f"**{images:,} images**, a head of {number(head)} GB", ""]
    lines += ["| stage | machines | hours | $ | limited by | GB of the largest process |"]
    lines += ["|---|---|---|---|---|---|"]
    for stage in made:
        where = "the head"
        if stage.machines != HEAD:
            where = f"{assumed[stage.machines]:.0f} {stage.machines}, the head"
        numbers = f"{number(stage.hours)} | {number(dollars(stage, head, assumed))}"
        memory = f"{number(stage.gigabytes)} ({stage.process})"
        lines.append(f"| {stage.name} | {where} | {numbers} | {stage.limit} | {memory} |")
    counted = [stage for stage in made if stage.name != CUTTING]  # it goes on beside the blocks
    hours = sum(stage.hours for stage in counted)
    total = sum(dollars(stage, head, assumed) for stage in counted)
    return [*lines, f"| **all** | | {number(hours)} | {number(total)} | | |"]
