"""Inputs of the extraction benchmarks: sentences, and a random model and SAEs of Gemma 2 2B's true shape."""

import itertools
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "s1_compute_all_features"
sys.path.insert(0, str(STAGE))

D_MODEL, D_SAE = 2304, 16_384
TOKENIZER_SIZE = 10_000  # merges enough for about 22 tokens a sentence
THRESHOLD_SENTENCES = 24  # about 500 tokens, on which the thresholds are set


@dataclass(frozen=True)
class Inputs:
    """What the command is given; all of it lies in the work folder."""

    sentences: Path
    n_sentences: int
    model: Path
    n_layers: int
    vocabulary: int
    saes: Path
    config: Path
    files: list[Path]  # [n_saes] params.npz, some of them links to one another
    encoder_bytes: int  # of each file, the part with W_enc, b_enc and threshold, which comes first

    def cached_files(self) -> list[Path]:
        return [*self.model.glob("*.safetensors"), *self.files]


def project_sentences() -> list[str]:
    """The sentences of the five shipped traits, which alternate."""
    tables = sorted((ROOT / "s0_dataset_generation" / "expanded_data").glob("*.csv"))
    columns = [pd.read_csv(table)["sentence"] for table in tables]
    alternating = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    return list(dict.fromkeys(sentence for sentence in alternating if sentence is not None))


def make_sentences(n: int) -> list[str]:
    """`n` different sentences: the project's own, then first halves of some with second halves of others."""
    own = project_sentences()
    words = [sentence.split() for sentence in own]
    sentences = dict.fromkeys(own[:n])
    for distance in range(1, len(own)):
        if len(sentences) >= n:
            break
        for first, second in zip(words, words[distance:] + words[:distance]):
            sentences[" ".join(first[: len(first) // 2] + second[len(second) // 2 :])] = None
    return list(sentences)[:n]


def write_sentences(folder: Path, n: int) -> Path:
    path = folder / f"sentences_{n}.csv"
    table = pd.DataFrame({"sentence": make_sentences(n), "concept_strength_label": np.arange(n) % 4})
    table.to_csv(path, index=False)
    return path


def write_tokenizer(folder: Path) -> None:
    """A byte-fallback BPE with Gemma's special tokens, trained on the project's sentences."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE, special_tokens=special + alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(project_sentences(), trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_checkpoint(
    folder: Path, n_layers: int, vocabulary: int, d_model: int = D_MODEL, d_mlp: int = 9216
) -> None:
    """Random float32 weights of Gemma 2 2B's shape, or narrower, one file per block: never all in memory."""
    from safetensors.torch import save_file

    if (folder / "config.json").exists():  # written last
        return
    print(f"writing a random model to {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        architectures=["Gemma2ForCausalLM"],
    )
    with torch.device("meta"):
        shapes = transformers.Gemma2ForCausalLM(config).state_dict()
    shapes.pop("lm_head.weight")  # tied to the embedding
    generator = torch.Generator().manual_seed(0)
    shards = itertools.groupby(shapes, key=lambda name: name.split(".")[:3])
    weight_map, total_size = {}, 0
    for number, (_, names) in enumerate(shards):
        file = f"model-{number:05d}.safetensors"
        tensors = {}
        for name in names:
            # Weights of norms are zero: Gemma's RMSNorm multiplies by 1 + weight.
            tensors[name] = torch.zeros(shapes[name].shape)
            if tensors[name].ndim == 2:
                tensors[name].normal_(std=config.initializer_range, generator=generator)
            weight_map[name] = file
            total_size += tensors[name].nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    write_tokenizer(folder)
    config.save_pretrained(folder)


def choose_saes(n_layers: int, n_saes: int) -> list[dict]:
    """`n_saes` of Gemma Scope's configurations on the first `n_layers` blocks, evenly spread over them."""
    configurations = json.loads((STAGE / "gemma_scope_16k_configurations.json").read_text(encoding="utf-8"))
    there = [entry for entry in configurations["saes"] if entry["layer"] < n_layers]
    if n_saes > len(there):
        raise ValueError(f"--saes {n_saes}: Gemma Scope has {len(there)} on the first {n_layers} blocks")
    return [there[int((k + 0.5) * len(there) / n_saes)] for k in range(n_saes)]


def link_targets(entries: list[dict], n_distinct: int) -> dict[str, dict]:
    """For each SAE's path, the SAE on the same layer whose file it shares: itself for `n_distinct` of them.

    A layer's first own files are those of its L0s nearest Gemma Scope's mean, 119.
    """
    layers = {entry["layer"] for entry in entries}
    if n_distinct < len(layers):
        raise ValueError(f"room for {n_distinct} SAE files, but each of {len(layers)} layers needs its own")
    table = pd.DataFrame(entries).sort_values("average_l0", key=lambda l0: (l0 - 119).abs(), kind="stable")
    turn = table.groupby("layer").cumcount().sort_values(kind="stable")
    own = [entries[k] for k in turn.index[:n_distinct]]
    return {
        entry["path"]: min(
            (file for file in own if file["layer"] == entry["layer"]),
            key=lambda file: abs(file["average_l0"] - entry["average_l0"]),
        )
        for entry in entries
    }


def sample_residual_stream(folder: Path, device: torch.device) -> dict[int, torch.Tensor]:
    """`[tokens, d_model]` float32 by layer, of a few sentences in which all traits have a part."""
    from language_model.model_source import load_model
    from language_model.residual_stream import decoder_and_blocks, record_residual_stream

    model, tokenizer = load_model(str(folder), dtype=torch.float32, device=device)
    decoder, blocks = decoder_and_blocks(model)
    states = {layer: [] for layer in range(len(blocks))}
    for sentence in project_sentences()[:THRESHOLD_SENTENCES]:
        ids = [tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]
        with (
            torch.inference_mode(),
            record_residual_stream(blocks, list(states), keep=torch.clone) as recorded,
        ):
            decoder(input_ids=torch.tensor([ids], device=device), use_cache=False)
        for layer, parts in states.items():
            parts.append(recorded[layer][0, 1:])
    return {layer: torch.cat(parts) for layer, parts in states.items()}


def write_sae(path: Path, entry: dict, resid_post: torch.Tensor, seed: int, with_decoder: bool) -> None:
    """A `params.npz` with one threshold for all features: `average_l0` of them fire on a token."""
    generator = torch.Generator().manual_seed(seed)
    d_model = resid_post.shape[1]
    w_enc = torch.randn(d_model, D_SAE, generator=generator) / d_model**0.5
    b_enc = torch.randn(D_SAE, generator=generator) / 10
    z = torch.addmm(b_enc.to(resid_post), resid_post, w_enc.to(resid_post)).flatten()  # [tokens * d_sae]
    threshold = torch.kthvalue(z, len(z) - entry["average_l0"] * len(resid_post)).values.item()
    arrays = {
        "W_enc": w_enc.numpy(),
        "b_enc": b_enc.numpy(),
        "threshold": np.full(D_SAE, threshold, dtype=np.float32),
    }
    if with_decoder:
        arrays["W_dec"] = np.ascontiguousarray(w_enc.T.numpy())
        arrays["b_dec"] = np.zeros(d_model, dtype=np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part.npz")
    np.savez(part, **arrays)
    part.replace(path)


def make_inputs(
    work: Path,
    *,
    n_sentences: int,
    n_layers: int,
    n_saes: int,
    vocabulary: int,
    distinct: int | None,
    with_decoder: bool,
    device: torch.device,
) -> Inputs:
    """Write what is not yet in the work folder, and say what is there.

    distinct: SAE files at most; without it as many as the disk has room for.
    """
    if vocabulary < TOKENIZER_SIZE:
        raise ValueError(f"--vocabulary {vocabulary}: the tokenizer has {TOKENIZER_SIZE} tokens")
    name = f"{n_layers}_blocks_{vocabulary}_tokens"
    model, saes = work / f"model_{name}", work / f"saes_{name}"
    saes = saes.with_name(saes.name + "_with_decoder") if with_decoder else saes
    saes.mkdir(parents=True, exist_ok=True)
    entries = choose_saes(n_layers, n_saes)
    write_checkpoint(model, n_layers, vocabulary)

    encoder_bytes = 4 * D_SAE * (D_MODEL + 2)
    files = {entry["path"]: saes / entry["path"] / "params.npz" for entry in entries}
    own_bytes = encoder_bytes * (2 if with_decoder else 1)
    # Of the free disk, what the output takes stays free: float32 and float16 states, 8 bytes per activation.
    output_bytes = n_sentences * 22 * (n_layers * D_MODEL * 6 + n_saes * 119 * 8)
    room = (shutil.disk_usage(work).free - output_bytes) // own_bytes
    room += len({os.stat(file).st_ino for file in files.values() if file.exists()})
    n_distinct = max(0, min(n_saes, distinct or n_saes, room))
    targets = link_targets(entries, n_distinct)
    missing = [entry for entry in entries if not files[entry["path"]].exists()]
    if missing:
        print(f"writing {len(missing)} SAEs to {saes}", flush=True)
        states = sample_residual_stream(model, device)
        for entry in sorted(missing, key=lambda entry: targets[entry["path"]] is not entry):
            if targets[entry["path"]] is entry:
                seed = 1000 * entry["layer"] + entry["average_l0"]
                write_sae(files[entry["path"]], entry, states[entry["layer"]], seed, with_decoder)
            else:
                files[entry["path"]].parent.mkdir(parents=True, exist_ok=True)
                files[entry["path"]].hardlink_to(files[targets[entry["path"]]["path"]])
        os.sync()  # only pages that are on disk can be dropped from memory
    config = work / f"configurations_{name}_{n_saes}.json"
    content = {"release": "random", "repo_id": None, "model": "random Gemma 2 2B", "saes": entries}
    config.write_text(json.dumps(content), encoding="utf-8")
    n_files = len({os.stat(file).st_ino for file in files.values()})
    print(
        f"{n_sentences:,} sentences; blocks: {n_layers}, vocabulary {vocabulary:,}; {n_saes} SAEs of "
        f"{D_MODEL:,} x {D_SAE:,}; distinct files: {n_files} of {own_bytes / 1e6:.0f} MB"
        + ("; the others are links, with the L0 of their file" if n_files < n_saes else "")
    )
    return Inputs(
        sentences=write_sentences(work, n_sentences),
        n_sentences=n_sentences,
        model=model,
        n_layers=n_layers,
        vocabulary=vocabulary,
        saes=saes,
        config=config,
        files=list(files.values()),
        encoder_bytes=encoder_bytes,
    )
