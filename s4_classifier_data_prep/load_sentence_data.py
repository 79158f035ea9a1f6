"""Reads the inputs of a dataset: token arrays of stage 1, and features that stage 2 ranked, as sentence rows.

`rows` [n] bool says which sentences a dataset keeps. One file's tokens are in memory at a time.
"""

import zipfile
from pathlib import Path

import numpy as np
from twins_s4.feature_folder import EXTRACT, FeatureFolder, find_sae, read_sae_activations, required_file
from twins_s4.progress import progress
from twins_s4.ranking_folder import RankingFolder, open_rankings
from twins_s4.sentence_pooling import pool_dense, pool_sparse


def open_results(folder: Path, features: FeatureFolder) -> RankingFolder:
    """Open a stage 2 result that belongs to `features`; ValueError for a negative control."""
    results = open_rankings(folder, features)
    if results.run.get("labels_shuffled"):
        raise ValueError(
            f"{folder} is a negative control, made with --shuffle-labels: its features were chosen by labels "
            "that are not those of the sentences; give results of stage 2 made without that option"
        )
    return results


def extracted_layers(features: FeatureFolder) -> list[int]:
    """Layers whose hidden states are in the folder."""
    return sorted(
        int(path.stem.removeprefix("layer_")) for path in features.folder.glob("hidden_states/layer_*.npz")
    )


def require_layers(features: FeatureFolder, layers: list[int]) -> None:
    """Raise ValueError naming the extracted layers unless all of `layers` are among them."""
    available = extracted_layers(features)
    missing = [str(layer) for layer in layers if layer not in available]
    if missing or not available:
        asked, found = ", ".join(missing) or "at all", ", ".join(map(str, available)) or "none"
        raise ValueError(
            f"{features.folder}/hidden_states has no layer {asked}; extracted layers: {found}. "
            f"Choose from these, or {EXTRACT} with the layers you need"
        )


def read_token_array(features: FeatureFolder, file_name: str, key: str) -> np.ndarray:
    """Read `embeddings` or `hidden_states` [T, d_model] (float16 or float32) and check its shape."""
    path = required_file(features.folder, file_name, EXTRACT)
    try:
        with np.load(path, allow_pickle=False) as file:
            token_values = file[key]
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and {EXTRACT}") from None
    expected = (len(features.tokens), features.run["d_model"])
    if token_values.shape != expected:
        raise ValueError(
            f"{path} has shape {token_values.shape}, expected {expected} (tokens and d_model of the run); "
            f"delete it and {EXTRACT}"
        )
    return token_values


def pooled_token_array(
    features: FeatureFolder, file_name: str, key: str, pool: str, rows: np.ndarray
) -> np.ndarray:
    """Pooled rows of a token array, float32 [n_rows, d_model]; ValueError where one is not finite."""
    token_values = read_token_array(features, file_name, key)  # [T, d_model]
    pooled = pool_dense(token_values, features.sentence_offsets, pool)[rows]  # [n_rows, d_model]
    is_finite = np.isfinite(pooled).all(axis=1)
    if not is_finite.all():
        bad = np.flatnonzero(rows)[~is_finite][0]
        raise ValueError(
            f"{features.folder / file_name}: the inputs of sentence_index {bad} are not finite; "
            "run stage 1 again in float32"
        )
    return pooled


def stacked_hidden_states(
    features: FeatureFolder, layers: list[int], pool: str, rows: np.ndarray
) -> np.ndarray:
    """Pooled hidden states of the layers side by side, float32 [n_rows, N * d_model]."""
    d_model = features.run["d_model"]
    X = np.full((int(rows.sum()), len(layers) * d_model), np.nan, np.float32)  # [n_rows, N * d_model]
    with progress(len(layers), "layer", "pooling") as bar:
        for k, layer in enumerate(layers):
            X[:, k * d_model : (k + 1) * d_model] = pooled_token_array(
                features, f"hidden_states/layer_{layer}.npz", "hidden_states", pool, rows
            )
            bar.update()
    return X


def pooled_features(features: FeatureFolder, chosen: list[dict], pool: str, rows: np.ndarray) -> np.ndarray:
    """Pooled activations of the chosen features, float32 [n_rows, k]; each file is read once."""
    X = np.full((int(rows.sum()), len(chosen)), np.nan, np.float32)  # [n_rows, k]
    columns_of: dict[tuple[int, int], list[int]] = {}
    for k, feature in enumerate(chosen):
        columns_of.setdefault((feature["layer"], feature["average_l0"]), []).append(k)
    for (layer, average_l0), columns in columns_of.items():
        sae = find_sae(features, layer, average_l0)
        ids = [chosen[k]["feature_id"] for k in columns]
        if max(ids) >= sae["d_sae"]:
            raise ValueError(
                f"the ranking names feature {max(ids)} of layer {layer}, L0 {average_l0}, which has "
                f"{sae['d_sae']} features; the ranking belongs to other SAEs: run stage 2 again"
            )
        token_acts = read_sae_activations(features, sae)[:, ids].tocsc()  # [T, len(ids)]
        X[:, columns] = pool_sparse(token_acts, features.sentence_offsets, pool).toarray()[rows]
    return X
