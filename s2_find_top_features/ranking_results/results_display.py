"""Prints a finished results folder."""

from pathlib import Path

import pandas as pd
from twins_s2.feature_folder import read_run, required_file

REMEDY = "run without --display-only"


def display(output: Path, n_rows: int) -> None:
    """Print the notices, the summary and the best rows of a results folder, or the nearest misses."""
    record = read_run(output, REMEDY)
    for notice in record.get("notices", []):
        print(f"note: {notice}")
    print(summary_line(record))
    columns = ["rank", "layer", "average_l0", "feature_id", "interpretability_score", "pearson_corr", "auroc"]
    ranked = pd.read_csv(required_file(output, "ranked_features.csv", REMEDY))
    if len(ranked):
        columns += ["p_maxt", "family_id"]
        if record["summary"]["n_confirmed"] is not None:
            columns += ["confirm_spearman", "confirm_auroc", "confirm_p"]
        columns += [name for name in ("steer_spearman", "confirm_steer_p", "evidence") if name in ranked]
        if "evidence" in ranked:
            ranked["evidence"] = ranked["evidence"].astype(object).fillna("")
        print(ranked[columns].head(n_rows).to_string(index=False, float_format="{:.3g}".format))
        return
    misses = pd.read_csv(required_file(output, "discovery_ranking.csv", REMEDY)).head(n_rows)
    if misses.empty:
        print(
            f"no feature fires in {record['arguments']['min_firing']} discovery sentences; see --min-firing"
        )
        return
    print("no feature passed the filters; the nearest misses, with the filters they failed:")
    columns += ["tpr", "fpr", "p_maxt"]
    columns += [name for name in ("steer_spearman", "p_steer_maxt") if name in misses]
    columns += ["failed_filters"]
    print(misses[columns].to_string(index=False, float_format="{:.3g}".format))


def summary_line(record: dict) -> str:
    """What the run found, in one line."""
    summary, arguments = record["summary"], record["arguments"]
    line = (
        f"{summary['n_features']:,} features in {summary['n_saes']} SAEs, "
        f"{summary['n_eligible']:,} eligible, "
        f"{summary['n_significant_bh']:,} with q_bh <= {arguments['alpha']}"
    )
    if summary["n_significant_maxt"] is not None:
        line += f", {summary['n_significant_maxt']:,} with p_maxt <= {arguments['alpha']}"
    if record.get("quadrants"):
        n_both = record["quadrants"]["upper_right"]
        line += f", {summary['n_significant_steer_maxt']:,} with p_steer_maxt ({n_both:,} both)"
    line += f"; {summary['n_passing']:,} pass the filters, {summary['n_ranked']} ranked"
    if summary["n_confirmed"] is None:
        return f"{line}, none held out to confirm"
    line += (
        f" in {summary['n_families']} families, {summary['n_confirmed']} confirmed "
        f"({summary['n_families_confirmed']} families)"
    )
    if summary.get("n_steers") is not None:
        line += f"; {summary['n_steers']} steer, {summary['n_both']} do both"
    return line
