"""Renders report.html: one self-contained page from the tables of a finished analysis."""

from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from feature_ranking.ranking import Ranking
from twins_s2.palette import ACCENT, CONTRAST, FAINT, INK, LABEL_COLOURS, MUTED

from .report_figures import plot_confirmation, plot_sae_map, to_svg

TEMPLATE = Path(__file__).with_name("report_template.html")
LABEL_NAMES = {
    3: "plainly about the trait",
    2: "trait present, weak or partial",
    1: "same domain, trait not shown",
    0: "irrelevant",
}
N_NEAREST_MISSES = 15
COLOURS = {
    "accent": ACCENT,
    "contrast": CONTRAST,
    "ink": INK,
    "muted": MUTED,
    "faint": FAINT,
    "labels": LABEL_COLOURS,
}


def render_report(ranking: Ranking, examples: list[dict], record: dict) -> str:
    """The page as HTML text; `examples` is the content of feature_examples.json, `record` of run.json."""
    features = feature_cards(ranking.ranked, examples)
    missed = ranking.discovery[ranking.discovery["failed_filters"] != ""].head(N_NEAREST_MISSES)
    has_confirmation = record["summary"]["n_confirmed"] is not None
    shares = [column for column in ranking.ranked if column.startswith("contrast_share_")]
    scatter = None
    if has_confirmation and features:
        scatter = to_svg(plot_confirmation(ranking.ranked), "scatter")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.globals["zip"] = zip
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        trait=record["trait"].replace("_", " "),
        record=record,
        summary=record["summary"],
        arguments=record["arguments"],
        has_confirmation=has_confirmation,
        contrasts=[column.removeprefix("contrast_share_") for column in shares],
        features=features,
        misses=missed.to_dict("records"),
        label_names=LABEL_NAMES,
        colours=COLOURS,
        scatter=scatter,
        sae_map=to_svg(plot_sae_map(ranking.best_per_sae, has_confirmation), "map"),
    )


def feature_cards(ranked: pd.DataFrame, examples: list[dict]) -> list[dict]:
    """What the page shows of each ranked feature: its row, its family, its sentences, and two scales."""
    cards = ranked.astype(object).where(ranked.notna(), None).to_dict("records")
    members = ranked.groupby("family_id")["rank"].agg(list).to_dict()
    for card, example in zip(cards, examples):
        means = np.array([card[f"mean_label_{label}"] for label in range(4)])
        card["bars"] = (means / max(means.max(), 1e-12)).tolist()  # share of the highest mean
        card["family"] = members[card["family_id"]]
        card["examples"] = example["examples"]
        card["peak"] = max(
            (max(e["activations"]) for by_label in example["examples"].values() for e in by_label),
            default=1.0,
        )
    return cards


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure for a table cell: fixed decimals, `<` below the last one, empty where there is no value."""
    if value is None or not np.isfinite(value):
        return ""
    if 0 < value < 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
