"""What a run did, for a person."""

from __future__ import annotations

from typing import Any

from pipeline.events import duration
from pipeline.rerank.evaluation import table_text


def summary_text(summary: dict[str, Any], output: str) -> str:
    """The summary of `Run.finish` as a few aligned lines."""
    session = summary["session"]
    failed = (
        ", ".join(f"{count:,} {reason}" for reason, count in summary["failed"].items()) or "none"
    )
    lines = [
        ("images", f"{summary['images']:,}"),
        ("pairs", f"{summary['pairs']:,} of {summary['planned_pairs']:,} planned"),
        ("matched", f"{summary['matched']:,} pairs, {summary['matches']:,} matches"),
        ("verified", f"{summary['verified']:,} pairs, {summary['inliers']:,} inliers"),
        ("failed", failed),
        (
            "seconds",
            "  ".join(f"{stage} {value:.1f}" for stage, value in summary["stage_seconds"].items()),
        ),
        (
            "this session",
            f"{session['pairs']:,} pairs in {duration(session['seconds'])}, {session['pairs_per_second']} pairs/s, "
            f"of which {session['ray_start_seconds']} s to start Ray",
        ),
        ("results", output),
    ]
    if summary["failed_images"]:
        broken = ", ".join(
            f"{count:,} {reason}" for reason, count in summary["failed_images"].items()
        )
        lines.insert(1, ("unusable", f"{broken} (failures/*.parquet)"))
    return "".join(f"{name + ':':14}{value}\n" for name, value in lines)


def rerank_text(result: dict[str, Any], output: str) -> str:
    """What `reranking.rerank` returns as a few aligned lines; with a truth, retrieval's own measures first."""
    options, session = result["options"], result["session"]
    failed = (
        ", ".join(f"{count:,} {reason}" for reason, count in result["failed"].items()) or "none"
    )
    lines = [
        ("queries", f"{result['queries']:,}, {result['candidates']:,} candidates"),
        (
            "pairs",
            f"{result['pairs']:,} of {result['planned_pairs']:,} matched, {result['saved_pairs']:,} saved",
        ),
        (
            "candidates",
            "  ".join(f"{result[name]:,} {name}" for name in ("verified", "unverified", "skipped")),
        ),
        ("failed", failed),
        (
            "first places",
            f"{result['changed_first']:,} changed, {result['gated_queries']:,} kept by the gate of "
            f"{options['gate']} inliers",
        ),
        ("this session", f"{session.get('pairs', 0):,} pairs in {duration(session['seconds'])}"),
        ("results", output),
    ]
    text = "".join(f"{name + ':':14}{value}\n" for name, value in lines)
    evaluation = result["evaluation"]
    if not evaluation:
        return text
    rows = {**evaluation["measures"], "change": evaluation["change"]}
    return (
        text
        + f"{evaluation['queries']:,} queries with a truth, per cent [95 % interval]\n"
        + table_text(rows)
    )
