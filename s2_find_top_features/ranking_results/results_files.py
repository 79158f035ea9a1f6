"""The files of a results folder, and what its run.json says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from feature_ranking.ranking import Ranking
from twins_s2.atomic_files import replaced_together, write_json, write_text
from twins_s2.feature_folder import FORMAT_VERSION, FeatureFolder
from twins_s2.folder_lock import only_writer
from twins_s2.provenance import library_versions, sha256_of

LIBRARIES = ("numpy", "scipy", "pandas", "joblib", "jinja2", "matplotlib")


def require_folder_or_nothing(output: Path) -> None:
    """Raise ValueError, before time is spent on results, where their folder's name is a file's."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file, expected a folder or nothing; choose another name")


def run_record(features: FeatureFolder, ranking: Ranking, arguments: dict) -> dict:
    """The content of run.json, but for the wall time; `arguments` are those of the command."""
    source = ("input_sha256", "model", "model_revision", "n_sentences", "n_tokens")
    return {
        "format_version": FORMAT_VERSION,
        "trait": features.trait,
        "features_run": {
            "path": str(features.folder),
            **{key: features.run.get(key) for key in source},
        },
        "pool": arguments["pool"],
        "arguments": arguments,
        "seed": arguments["seed"],
        "labels_shuffled": arguments["shuffle_labels"],
        "duplicate_saes_left_out": [sae["sae_id"] for sae in features.run["saes"] if sae.get("duplicate_of")],
        "signed_saes_left_out": ranking.signed_saes,
        "notices": notices(ranking, arguments),
        "summary": ranking.summary,
        "input_sha256": {
            name: sha256_of(features.folder / name) for name in ("run.json", "sentences.csv", "tokens.npz")
        },
        "libraries": library_versions(*LIBRARIES),
    }


def notices(ranking: Ranking, arguments: dict) -> list[str]:
    """What a reader of these results has to know before any figure: each `Title. Text`."""
    found = []
    if arguments["shuffle_labels"]:
        found.append(
            "Negative control. The labels were shuffled before the analysis: whatever is found is chance."
        )
    if arguments["confirm_share"] == 0:
        found.append(
            "Nothing was held out. Features were selected and measured on the same sentences "
            "(--confirm-share 0), so the figures are larger than they would be on new sentences. Only "
            "p_maxt, where it was computed, accounts for the number of features searched."
        )
    if arguments["permutations"] == 0:
        found.append(
            "No permutation test. With --permutations 0 p_maxt is empty: no figure accounts for the best of "
            "all features searched. q_bh rests on analytic p values, corrected for groups of sentences."
        )
    if ranking.signed_saes:
        found.append(
            "SAEs left out. Their activations keep signs (abstopk), and the statistics need activations of 0 "
            f"or more: {', '.join(ranking.signed_saes)}."
        )
    return found


def write_results(
    output: Path,
    features: FeatureFolder,
    parts: np.ndarray,
    ranking: Ranking,
    examples: list[dict],
    report: str,
    record: dict,
) -> None:
    """Replace the files of the results folder as one, run.json last: it stands beside its own files only."""
    split = pd.DataFrame(
        {
            "sentence_index": features.sentences["sentence_index"],
            "group": features.groups,
            "concept_strength_label": features.labels,
            "part": parts,
        }
    )
    tables = {
        "ranked_features.csv": ranking.ranked,
        "discovery_ranking.csv": ranking.discovery,
        "best_per_sae.csv": ranking.best_per_sae,
        "split.csv": split,
    }
    with only_writer(output / ".lock", str(output)), replaced_together(output, last="run.json") as fresh:
        for name, table in tables.items():
            write_text(fresh / name, table.to_csv(index=False, lineterminator="\n"))
        text = json.dumps(examples, indent=1, ensure_ascii=False)
        write_text(fresh / "feature_examples.json", text + "\n")
        write_text(fresh / "report.html", report)
        write_json(fresh / "run.json", record)
