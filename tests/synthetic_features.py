"""Writes a feature folder in the layout that s1 writes, with known content, for tests and benchmarks."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse


@dataclass(frozen=True)
class SyntheticSae:
    """One SAE of a synthetic run.

    `planted` maps feature_id to how strongly it follows the label, `steering` to by how many standard
    deviations its steering sensitivity grows from label to label.
    """

    layer: int
    average_l0: int
    d_sae: int = 64
    neuronpedia_id: str | None = None
    planted: dict[int, float] = field(default_factory=dict)
    steering: dict[int, float] = field(default_factory=dict)


REGISTERS = ("statement", "chat", "note", "diary", "dialogue", "news", "review", "story")
DEFAULT_SAES = (
    SyntheticSae(0, 8, neuronpedia_id="tiny/0-res"),
    SyntheticSae(1, 8, neuronpedia_id="tiny/1-res", planted={5: 4.0}, steering={5: 1.0, 9: 1.0}),
    SyntheticSae(1, 16, planted={7: 4.0}),
)


def write_feature_folder(
    folder: Path,
    *,
    n_sentences: int = 80,
    n_layers: int = 3,
    d_model: int = 16,
    saes: tuple[SyntheticSae, ...] = DEFAULT_SAES,
    sentence_lengths: tuple[int, int] = (3, 9),
    sentences_per_group: int = 2,
    hidden_signal_from_layer: int | None = 1,
    seed: int = 0,
    effects: bool = False,
    text_kinds: bool = False,
) -> Path:
    """Write `folder` as s1 would and return it.

    Labels cycle 0, 1, 2, 3. A planted feature fires on one random token of a sentence with
    probability label / 3, at `strength * (1 + label)`; all other activations are noise. From layer
    `hidden_signal_from_layer` on, dimension 0 of the hidden states carries the label plus unit noise.
    With `effects` there are `sae_effects/`, unit noise but for what is planted; with `text_kinds` the columns
    `register` and `difficulty`, both in equal shares of every label. Neither changes anything else.
    """
    rng = np.random.default_rng(seed)
    folder = Path(folder)
    (folder / "hidden_states").mkdir(parents=True, exist_ok=True)
    (folder / "sae_activations").mkdir(exist_ok=True)

    labels = np.arange(n_sentences) % 4  # [n]
    n_tokens = rng.integers(*sentence_lengths, size=n_sentences, endpoint=True)  # [n]
    offsets = np.concatenate([[0], np.cumsum(n_tokens)]).astype(np.int64)  # [n + 1]
    total = int(offsets[-1])
    token_ids = rng.integers(0, 500, total).astype(np.int32)  # [T]
    tokens = np.array([f" w{t}" for t in token_ids])  # [T] str
    sentences = ["".join(tokens[a:b]).strip() + f" #{i}" for i, (a, b) in enumerate(pairwise(offsets))]
    # A group holds neighbouring sentences, so it mixes labels, as a scene told at several labels does.
    table = {
        "sentence_index": np.arange(n_sentences),
        "sentence": sentences,
        "concept_strength_label": labels,
        "n_tokens": n_tokens,
        "group": np.arange(n_sentences) // sentences_per_group,
    }
    if text_kinds:
        table["register"] = np.array(REGISTERS)[np.arange(n_sentences) // 4 % len(REGISTERS)]
        table["difficulty"] = np.array(["plain", "hard"])[np.arange(n_sentences) // 4 % 2]
    pd.DataFrame(table).to_csv(folder / "sentences.csv", index=False)
    np.savez(folder / "tokens.npz", token_ids=token_ids, tokens=tokens, sentence_offsets=offsets)
    np.savez(folder / "embeddings.npz", embeddings=rng.normal(size=(total, d_model)).astype(np.float16))

    token_labels = np.repeat(labels, n_tokens)  # [T]
    for layer in range(n_layers):
        hidden = rng.normal(size=(total, d_model))  # [T, d_model]
        if hidden_signal_from_layer is not None and layer >= hidden_signal_from_layer:
            hidden[:, 0] += 2.0 * token_labels
        np.savez(folder / f"hidden_states/layer_{layer}.npz", hidden_states=hidden.astype(np.float16))

    entries = []
    for sae in saes:
        dense = np.where(
            rng.random((total, sae.d_sae)) < sae.average_l0 / sae.d_sae,
            rng.exponential(size=(total, sae.d_sae)),
            0,
        )
        for feature_id, strength in sae.planted.items():
            dense[:, feature_id] = 0
            fires = rng.random(n_sentences) < labels / 3  # [n] bool
            where = offsets[:-1][fires] + rng.integers(0, n_tokens[fires])
            dense[where, feature_id] = strength * (1 + labels[fires]) + rng.exponential(size=fires.sum())
        name = f"sae_activations/layer_{sae.layer}_l0_{sae.average_l0}.npz"
        scipy.sparse.save_npz(folder / name, scipy.sparse.csr_matrix(dense.astype(np.float32)))
        entries.append(
            {
                "layer": sae.layer,
                "average_l0": sae.average_l0,
                "d_sae": sae.d_sae,
                "sae_id": f"layer_{sae.layer}/width_{sae.d_sae}/average_l0_{sae.average_l0}",
                "neuronpedia_id": sae.neuronpedia_id,
                "file": name,
            }
        )
        if effects:
            entries[-1]["effects"] = write_effects(folder, sae, dense, offsets, labels, seed)
    run = {
        "format_version": 1,
        "model": "tiny-random",
        "model_revision": None,
        "dtype": "float32",
        "d_model": d_model,
        "n_layers": n_layers,
        "layers": list(range(n_layers)),
        "n_sentences": n_sentences,
        "n_tokens": total,
        "input": "synthetic.csv",
        "input_sha256": f"{seed:064x}",
        "saes": entries,
        "libraries": {},
        "arguments": {},
    }
    (folder / "run.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
    return folder


def write_effects(
    folder: Path, sae: SyntheticSae, dense: np.ndarray, offsets: np.ndarray, labels: np.ndarray, seed: int
) -> str:
    """Write the effects of an SAE with the activations `dense` [T, d_sae]; the file's name in the folder."""
    rng = np.random.default_rng([seed, sae.layer, sae.average_l0])
    steering = rng.normal(size=(len(labels), sae.d_sae))  # [n, d_sae]
    for feature_id, slope in sae.steering.items():
        steering[:, feature_id] += slope * labels
    activations = scipy.sparse.csr_matrix(dense.astype(np.float32))
    attribution = activations.copy()  # of each token, at the places of the activations
    attribution.data *= rng.normal(size=activations.nnz).astype(np.float32)
    token_of = (np.repeat(np.arange(len(labels)), np.diff(offsets)), np.arange(len(dense)))
    sum_tokens = scipy.sparse.csr_matrix((np.ones(len(dense), np.float32), token_of))  # [n, T]
    ablation = (-(sum_tokens @ attribution)).tocsr()
    name = f"sae_effects/layer_{sae.layer}_l0_{sae.average_l0}.npz"
    (folder / "sae_effects").mkdir(exist_ok=True)
    np.savez(
        folder / name,
        format=np.array("csr"),
        shape=ablation.shape,
        data=ablation.data,
        indices=ablation.indices,
        indptr=ablation.indptr,
        steering=steering.astype(np.float32),
        token_attribution=attribution.data,
    )
    return name
