"""Renders report.html: one self-contained page from the tables of a finished analysis."""

import numpy as np
import pandas as pd
from feature_ranking.ranking import Ranking

from .effect_figure import plot_correlations
from .report_figures import plot_confirmation, plot_sae_map, to_svg
from .report_templates import report_templates

LABEL_NAMES = {
    3: "plainly about the trait",
    2: "trait present, weak or partial",
    1: "same domain, trait not shown",
    0: "irrelevant",
}
N_NEAREST_MISSES = 15


def render_report(ranking: Ranking, examples: list[dict], record: dict) -> str:
    """The page as HTML text; `examples` is the content of feature_examples.json, `record` of run.json."""
    features = feature_cards(ranking.ranked, examples)
    missed = ranking.discovery[ranking.discovery["failed_filters"] != ""].head(N_NEAREST_MISSES)
    has_confirmation = record["summary"]["n_confirmed"] is not None
    shares = [column for column in ranking.ranked if column.startswith("contrast_share_")]
    scatter = None
    if has_confirmation and features:
        scatter = to_svg(plot_confirmation(ranking.ranked), "scatter")
    effects = effect_section(ranking)
    return (
        report_templates()
        .get_template("report_template.html")
        .render(
            trait=record["trait"].replace("_", " "),
            record=record,
            summary=record["summary"],
            arguments=record["arguments"],
            has_confirmation=has_confirmation,
            transfers=record["transfers"],
            by_difficulty="confirm_auroc_plain" in ranking.ranked,
            contrasts=[column.removeprefix("contrast_share_") for column in shares],
            features=features,
            misses=missed.to_dict("records"),
            label_names={label: name for label, name in LABEL_NAMES.items() if label in record["labels"]},
            scatter=scatter,
            effects=effects,
            sae_map=to_svg(plot_sae_map(ranking.best_per_sae, has_confirmation), "map"),
        )
    )


def effect_section(ranking: Ranking) -> dict | None:
    """What the page shows of effects: the figure and how many features lie in each quadrant.

    Where no feature is ranked, the first of each SAE is marked.
    """
    if ranking.correlations is None:
        return None
    marked = ranking.best_per_sae if ranking.ranked.empty else ranking.ranked
    figure = plot_correlations(ranking.correlations, ranking.best_per_sae, marked)
    return {"figure": to_svg(figure, "effects"), "quadrants": ranking.correlations.quadrants()}


def feature_cards(ranked: pd.DataFrame, examples: list[dict]) -> list[dict]:
    """What the page shows of each ranked feature: its row, its family, its sentences, and two scales."""
    cards = ranked.astype(object).where(ranked.notna(), None).to_dict("records")
    members = ranked.groupby("family_id")["rank"].agg(list).to_dict()
    for card, example in zip(cards, examples):
        means = np.array([card[f"mean_label_{label}"] for label in range(4)], dtype=np.float64)
        # Share of the highest mean; a label that is missing has a bar without height.
        card["bars"] = np.nan_to_num(means / max(np.nanmax(means), 1e-12)).tolist()
        card["family"] = members[card["family_id"]]
        card["examples"] = example["examples"]
        card["peak"] = max(
            (max(e["activations"]) for by_label in example["examples"].values() for e in by_label),
            default=1.0,
        )
    return cards
