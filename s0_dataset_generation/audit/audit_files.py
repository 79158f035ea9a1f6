"""The files of an audit, and its lines on the screen."""

from pathlib import Path

from audit.figure import draw_audit
from audit.measures import audit
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sentences.labelled_tables import LabelledSentence
from twins_s0.atomic_files import write_atomically, write_json
from twins_s0.provenance import sha256_of


def write_audit(table: list[LabelledSentence], csv_path: Path, folder: Path) -> dict:
    """Write `<name>.audit.json` and `<name>.audit.png` of `table`, the content of `csv_path`, to `folder`."""
    report = {"file": csv_path.name, "sha256": sha256_of(csv_path)} | audit(table)
    canvas = FigureCanvasAgg(draw_audit(report, table, f"{csv_path.name}: {len(table)} sentences"))
    write_atomically(
        folder / f"{csv_path.stem}.audit.png",
        lambda path: canvas.print_figure(path, format="png", dpi=150, metadata={"Software": None}),
    )
    write_json(folder / f"{csv_path.stem}.audit.json", report)
    return report


def summary(report: dict) -> str:
    """The audit on a few lines, warnings last."""
    counts = "/".join(str(count) for count in report["label_counts"].values())
    lines = [
        f"{report['file']}: {report['n_sentences']} sentences, {counts} of labels 0/1/2/3, "
        f"{report['groups']['number']} scenes, {len(report['near_duplicates'])} near-duplicate pairs, "
        f"Spearman(words, label) {report['spearman_words_label']}"
    ]
    if report["baselines"]:
        scores = ", ".join(f"{name.replace('_', ' ')} {score(v)}" for name, v in report["baselines"].items())
        lines.append(f"  cross-validated accuracy (quadratic kappa): {scores}")
    telling = [f"{e['text']} -> {e['label']}" for e in report["telling_ngrams"] if e["telling"]]
    lines.append(f"  telling n-grams: {', '.join(telling) or 'none'}")
    return "\n".join(lines + [f"  warning: {warning}" for warning in report["warnings"]])


def score(values: dict) -> str:
    kappa = values["quadratic_kappa"]
    return f"{values['accuracy']:.3f} ({'undefined' if kappa is None else f'{kappa:.2f}'})"
