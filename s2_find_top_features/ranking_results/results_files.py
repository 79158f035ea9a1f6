"""The files of a results folder, and what its run.json says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from feature_ranking.ranking import Ranking
from feature_statistics.feature_metrics import N_LABELS
from feature_statistics.sentence_split import DISCOVERY
from twins_s2.atomic_files import replaced_together, write_json, write_text
from twins_s2.feature_folder import FORMAT_VERSION, FeatureFolder
from twins_s2.folder_lock import only_writer
from twins_s2.provenance import library_versions, sha256_of

LIBRARIES = ("numpy", "scipy", "pandas", "joblib", "jinja2", "matplotlib")


def require_folder_or_nothing(output: Path) -> None:
    """Raise ValueError, before time is spent on results, where their folder's name is a file's."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file, expected a folder or nothing; choose another name")


def run_record(
    features: FeatureFolder,
    parts: np.ndarray,
    ranking: Ranking,
    transfers: list[FeatureFolder],
    arguments: dict,
) -> dict:
    """The content of run.json, but for the wall time; `arguments` are those of the command."""
    transfer_records = [transfer_record(other, features, parts) for other in transfers]
    source = ("input_sha256", "model", "model_revision", "model_fingerprint", "n_sentences", "n_tokens")
    sae_identity = ("layer", "average_l0", "encoder_sha256")
    return {
        "format_version": FORMAT_VERSION,
        "trait": features.trait,
        "features_run": {
            "path": str(features.folder),
            **{key: features.run.get(key) for key in source},
            "saes": [{key: sae.get(key) for key in sae_identity} for sae in features.run["saes"]],
        },
        "pool": arguments["pool"],
        "arguments": arguments,
        "seed": arguments["seed"],
        "labels_shuffled": arguments["shuffle_labels"],
        "duplicate_saes_left_out": [sae["sae_id"] for sae in features.run["saes"] if sae.get("duplicate_of")],
        "signed_saes_left_out": ranking.signed_saes,
        "labels": sorted(set(features.labels.tolist())),
        "transfers": transfer_records,
        "notices": notices(features, ranking, transfer_records, arguments),
        "summary": ranking.summary,
        # Significant on both axes, over all eligible features: `upper_right` follow and steer.
        "quadrants": ranking.correlations.quadrants() if ranking.correlations else None,
        "input_sha256": {
            name: sha256_of(features.folder / name) for name in ("run.json", "sentences.csv", "tokens.npz")
        },
        "libraries": library_versions(*LIBRARIES),
    }


def transfer_record(other: FeatureFolder, features: FeatureFolder, parts: np.ndarray) -> dict:
    """What run.json says of a run given with --transfer."""
    seen = set(features.sentences["sentence"][parts == DISCOVERY])
    return {
        "name": other.trait,
        "path": str(other.folder),
        "input_sha256": other.run.get("input_sha256"),
        **{f"n_label_{label}": int((other.labels == label).sum()) for label in (0, 3)},
        "n_seen": int(other.sentences["sentence"].isin(seen).sum()),  # took part in choosing the features
    }


def notices(features: FeatureFolder, ranking: Ranking, transfers: list[dict], arguments: dict) -> list[str]:
    """What a reader of these results has to know before any figure: each `Title. Text`."""
    found = []
    if arguments["shuffle_labels"]:
        found.append(
            "Negative control. The labels were shuffled before the analysis: whatever is found is chance."
        )
    labels = sorted(set(features.labels.tolist()))
    if len(labels) < N_LABELS:
        found.append(
            f"Labels {', '.join(map(str, labels[:-1]))} and {labels[-1]} only. Means of the others are "
            "empty, and whether means rise with the label is not asked: monotonic is empty and no filter."
        )
    if arguments["confirm_share"] == 0:
        found.append(
            "Nothing was held out. Features were selected and measured on the same sentences "
            "(--confirm-share 0), so the figures are larger than they would be on new sentences. Only "
            "p_maxt, where it was computed, accounts for the number of features searched."
        )
    for transfer in transfers:
        if transfer["n_seen"]:
            found.append(
                f"Sentences seen before. {transfer['n_seen']} sentences of {transfer['path']} (--transfer) "
                "are discovery sentences of this run: there the features are measured where they were chosen."
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
