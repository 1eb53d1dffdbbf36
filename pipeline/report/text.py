"""What the work came to, as text for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.events import counted, duration
from pipeline.masks.folder import masks_line
from pipeline.match.detail.passes import DetailSummary
from pipeline.match.run import RunSummary, Session
from pipeline.pairs.plan import DescriptorsSummary, ListSummary, Unusable
from pipeline.reconstruct.localize.results import LocalizeSummary
from pipeline.rerank.evaluation import table_text
from pipeline.rerank.job import RerankSummary


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values, a line each."""
    return "".join(f"{name + ':':14}{value}\n" for name, value in lines)


def summary_text(summary: RunSummary, output: str) -> str:
    """The summary of `Run.finish` as a few lines."""
    lines = [
        ("images", f"{summary['images']:,}"),
        ("pairs", _pairs(summary["pairs"], summary["planned_pairs"])),
        ("matched", f"{summary['matched']:,} pairs, {summary['matches']:,} matches"),
        ("verified", f"{summary['verified']:,} pairs, {summary['inliers']:,} inliers"),
        ("failed", _counts(summary["failed"]) or "none"),
        (
            "seconds",
            "  ".join(f"{name} {value:.1f}" for name, value in summary["stage_seconds"].items()),
        ),
        ("this session", _session(summary["session"])),
        ("results", output),
    ]
    if "detail" in summary:
        lines.insert(4, ("detail", _detail(summary["detail"])))
    if "masks" in summary:
        lines.insert(1, ("masks", masks_line(summary["masks"])))
    if summary["failed_images"]:
        broken = f"{_counts(summary['failed_images'])} (failures/*.parquet)"
        lines.insert(1, ("unusable", broken))
    return aligned(lines)


def rerank_text(result: RerankSummary, output: str) -> str:
    """The summary of a reranking as a few lines; with a truth, a table of measures, too."""
    statuses = (
        f"{result['verified']:,} verified",
        f"{result['unverified']:,} unverified",
        f"{result['skipped']:,} skipped",
    )
    gate = f"kept by the gate of {result['options']['gate']} inliers"
    session = result["session"]
    text = aligned(
        [
            ("queries", f"{result['queries']:,}, {result['candidates']:,} candidates"),
            *([("glances", counted(result["glances"], "pair"))] if result["glances"] else []),
            (
                "pairs",
                f"{result['pairs']:,} of {result['planned_pairs']:,} matched, "
                f"{result['saved_pairs']:,} saved",
            ),
            ("candidates", "  ".join(statuses)),
            ("failed", _counts(result["failed"]) or "none"),
            (
                "first places",
                f"{result['changed_first']:,} changed, {result['gated_queries']:,} {gate}",
            ),
            (
                "this session",
                f"{session.get('pairs', 0):,} pairs in {duration(session['seconds'])}",
            ),
            ("results", output),
        ]
    )
    evaluation = result["evaluation"]
    if not evaluation:
        return text
    rows = {**evaluation["measures"], "change": evaluation["change"]}
    title = f"{evaluation['queries']:,} queries with a truth, per cent [95 % interval]\n"
    return text + title + table_text(rows)


def localize_text(summary: LocalizeSummary) -> str:
    """The summary of a localization as a few lines."""
    lines = [
        ("queries", f"{summary['queries']:,}"),
        ("localized", f"{summary['localized']:,}"),
        ("no pose", _counts(summary["reasons"]) or "none"),
    ]
    if summary["localized"]:
        middle = f"median {summary['inliers']:,.0f} points, {summary['error']:.2f} px"
        most = f"at most {summary['largest_error']:.2f} px"
        lines[1] = "localized", f"{summary['localized']:,}, {middle}, {most}"
        lines.insert(2, ("cameras", _counts(summary["cameras"])))
    lines += [("note", note) for note in summary["notes"]]
    return aligned([*lines, ("results", summary["results"])])


def list_text(summary: ListSummary) -> str:
    """What a pair list or a list of candidates holds, as a few lines."""
    count, images, used = summary["count"], summary["images"], summary["used"]
    if summary["kind"] == "candidates":
        lines = [
            ("queries", f"{images:,}, of which {used:,} have candidates"),
            ("candidates", f"{count:,}"),
        ]
        each = "a query"
    else:
        lines = [
            ("images", f"{images:,}, of which {used:,} are in a pair"),
            ("pairs", f"{count:,} of {images * (images - 1) // 2:,}"),
        ]
        each = "an image"
    partners, scores = summary["partners"], summary["scores"]
    if partners:
        spread = f"{partners['least']:,} to {partners['most']:,} {each}"
        lines.append(("partners", f"{spread}, median {int(partners['median']):,}"))
    if scores:
        spread = f"{scores['least']:.4g} to {scores['most']:.4g}"
        lines.append(("scores", f"{spread}, median {scores['median']:.4g}"))
    if summary["repeated"]:
        lines.append(("repeated", f"{summary['repeated']:,}, written once"))
    lines += _unusable(summary["unusable"])
    if summary["results"]:
        lines.append(("results", summary["results"]))
    return aligned(lines)


def descriptors_text(summary: DescriptorsSummary) -> str:
    """How many images are described, as a few lines."""
    made = f"{summary['described']:,} images, {summary['dimensions']:,} numbers each"
    lines = [("described", made), *_unusable(summary["unusable"]), ("results", summary["results"])]
    return aligned(lines)


def _pairs(pairs: int, planned: int) -> str:
    if pairs > planned:
        return f"{planned:,} planned, and {pairs - planned:,} across gaps"
    return f"{pairs:,} of {planned:,} planned"


def _detail(of: DetailSummary) -> str:
    seconds = duration(sum(of["seconds"].values()))
    return (
        f"{of['finer']:,} pairs finer, {of['kept']:,} as before, {of['small']:,} too small; "
        f"{of['tiles']:,} tiles, {seconds}"
    )


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in of.items())


def _session(session: Session) -> str:
    done = f"{session['pairs']:,} pairs in {duration(session['seconds'])}"
    rate = f"{session['pairs_per_second']} pairs/s"
    if session["executor"] == "local":
        return f"{done}, {rate} on this machine"
    return f"{done}, {rate}, of which {session['start_seconds']} s to start Ray"


def _unusable(of: Mapping[str, Unusable]) -> list[tuple[str, str]]:
    return [
        ("unusable", f"{one['count']:,} {reason} ({one['first']})") for reason, one in of.items()
    ]
