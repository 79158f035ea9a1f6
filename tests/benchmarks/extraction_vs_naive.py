"""Time s1 against one forward pass per sentence and SAE, on a random Gemma 2 of 26 blocks and d_model 256.

    extraction_vs_naive.py                                20 sentences, 26 SAEs of 256 x 16,384
    extraction_vs_naive.py --mlp 512 --vocabulary 10000   the model narrow in all else too
    extraction_vs_naive.py --layers 3 --naive-sentences 4 --mlp 512 --vocabulary 10000

Apart from d_model the model has Gemma 2 2B's shape, and the sentences are the project's, of about 22 tokens.
The naive way is the original study's: for each SAE, and in it for each sentence, a forward pass with
output_hidden_states, the SAE on that layer's states, a dense float32 array kept; at the end savez_compressed.
The last entry of output_hidden_states has passed the final norm, so for the last layer a hook takes the
block's output instead: both ways then compute the same, which is checked. Ours is the whole command, which
writes embeddings and hidden states besides. Repeats of ours stand between shares of the naive way's SAEs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from full_scale_extraction import describe_machine, folder_bytes
from full_scale_inputs import (
    D_SAE,
    STAGE,
    sample_residual_stream,
    write_checkpoint,
    write_sae,
    write_sentences,
)
from hardware_floors import child_environment, import_seconds
from transformers import AutoModelForCausalLM, AutoTokenizer

D_MODEL, AVERAGE_L0 = 256, 100
CALL_TWICE = """
import json, sys, time
from extract_sae_features import main
outputs, arguments = json.loads(sys.argv[1]), sys.argv[2:]
for output in outputs:
    started = time.perf_counter()
    if main([*arguments, "--output", output]) != 0:
        sys.exit(1)
print(time.perf_counter() - started)
"""


def write_inputs(work: Path, args: argparse.Namespace) -> list[dict]:
    """Write model, SAEs, their configurations and the sentences; return the SAEs' entries."""
    model = work / "model"
    write_checkpoint(model, args.layers, args.vocabulary, d_model=D_MODEL, d_mlp=args.mlp)
    write_sentences(work, args.sentences).rename(work / "sentences.csv")
    states = sample_residual_stream(model, torch.device("cpu"))
    entries = []
    for layer in range(args.layers):
        entry = {"layer": layer, "average_l0": AVERAGE_L0, "path": f"layer_{layer}", "d_sae": D_SAE}
        write_sae(work / "saes" / f"layer_{layer}" / "params.npz", entry, states[layer], layer, True)
        entries.append(entry)
    configurations = {"release": "random", "repo_id": None, "model": "random Gemma 2", "saes": entries}
    (work / "configurations.json").write_text(json.dumps(configurations), encoding="utf-8")
    return entries


def naive_activations(
    model, tokenizer, sentences: list[str], sae_file: Path, layer: int, seconds: dict[str, float]
) -> list[np.ndarray]:
    """Dense float32 `[tokens, d_sae]` per sentence: one SAE, and a forward pass for each sentence.

    seconds: what each part takes is added to it.
    """
    started = time.perf_counter()
    with np.load(sae_file) as params:
        sae = {name: torch.from_numpy(params[name]) for name in params}
    seconds["loading SAEs"] += time.perf_counter() - started
    blocks = model.model.layers
    before_norm: dict[str, torch.Tensor] = {}
    handle = blocks[-1].register_forward_hook(lambda _module, _args, out: before_norm.update(last=out))
    dense = []
    with torch.inference_mode():
        for sentence in sentences:
            started = time.perf_counter()
            ids = [tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            resid_post = before_norm["last"] if layer == len(blocks) - 1 else states[layer + 1]
            passed = time.perf_counter()
            z = resid_post[0, 1:] @ sae["W_enc"] + sae["b_enc"]  # [tokens, d_sae]
            dense.append((torch.relu(z) * (z > sae["threshold"])).numpy())
            seconds["forward passes"] += passed - started
            seconds["encoding"] += time.perf_counter() - passed
    handle.remove()
    return dense


def our_arguments(work: Path) -> list[str]:
    arguments = ["--input", work / "sentences.csv", "--model", work / "model", "--device", "cpu"]
    arguments += ["--config", work / "configurations.json", "--sae-release", work / "saes"]
    return [str(argument) for argument in arguments]


def time_command(work: Path, output: Path) -> float:
    """Seconds of the real command, from the start of its process to its end."""
    command = [sys.executable, str(STAGE / "extract_sae_features.py"), *our_arguments(work)]
    started = time.perf_counter()
    subprocess.run(
        [*command, "--output", str(output)], check=True, capture_output=True, env=child_environment(work)
    )
    return time.perf_counter() - started


def time_second_call(work: Path, outputs: list[Path]) -> float:
    """Seconds of the command's `main` in a process that has run it once: without start-up and imports."""
    command = [sys.executable, "-c", CALL_TWICE, json.dumps([str(output) for output in outputs])]
    done = subprocess.run(
        [*command, *our_arguments(work)],
        check=True,
        capture_output=True,
        text=True,
        cwd=STAGE,
        env=child_environment(work),
    )
    return float(done.stdout.split()[-1])


def compare(naive: dict[str, np.ndarray], folder: Path, entries: list[dict], n_sentences: int) -> None:
    """Print how far the two ways' activations are apart."""
    end = np.load(folder / "tokens.npz")["sentence_offsets"][n_sentences]
    largest, n_active, at_threshold = 0.0, 0, []
    for entry in entries:
        name = f"sae_activations/layer_{entry['layer']}_l0_{entry['average_l0']}.npz"
        ours = scipy.sparse.load_npz(folder / name)[:end].toarray()
        theirs = np.concatenate([naive[f"layer_{entry['layer']}_{i}"] for i in range(n_sentences)])
        both = (ours > 0) & (theirs > 0)
        n_active += int((theirs > 0).sum())
        largest = max(largest, float(np.abs(ours - theirs)[both].max()))
        smallest = min(ours[both].min(), theirs[both].min())  # just above the threshold, which is one for all
        at_threshold += list(np.maximum(ours, theirs)[(ours > 0) != (theirs > 0)] - smallest)
    print(
        f"\nsame activations? {n_active:,} active in the naive way (L0 {n_active / end / len(entries):.1f}), "
        f"largest difference {largest:.1e};\nactive in one way only: {len(at_threshold)}"
        + (f", at most {max(at_threshold):.1e} above the threshold" if at_threshold else "")
    )


def measure(work: Path, args: argparse.Namespace) -> None:
    entries = write_inputs(work, args)
    sentences = list(pd.read_csv(work / "sentences.csv")["sentence"])[: args.naive_sentences]
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    model = AutoModelForCausalLM.from_pretrained(
        work / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    import_seconds(work)  # leaves compiled Python for the command

    naive: dict[str, np.ndarray] = {}
    naive_parts = dict.fromkeys(("loading SAEs", "forward passes", "encoding", "compressing"), 0.0)
    whole, second_call = [], []
    for repeat in range(args.repeats):
        outputs = [work / f"ours_{repeat}_{k}" for k in range(3)]
        whole.append(time_command(work, outputs[0]))
        second_call.append(time_second_call(work, outputs[1:]))
        for entry in entries[repeat :: args.repeats]:
            file = work / "saes" / entry["path"] / "params.npz"
            dense = naive_activations(model, tokenizer, sentences, file, entry["layer"], naive_parts)
            naive |= {f"layer_{entry['layer']}_{i}": array for i, array in enumerate(dense)}
        print(
            f"repeat {repeat + 1} of {args.repeats}: ours {whole[-1]:.2f} s, {second_call[-1]:.2f} s",
            flush=True,
        )
    started = time.perf_counter()
    np.savez_compressed(work / "naive.npz", **naive)
    naive_parts["compressing"] = time.perf_counter() - started

    per_sentence = sum(naive_parts.values()) / len(sentences)
    print(
        f"\n{args.layers} blocks and SAEs, d_model {D_MODEL}, MLP {args.mlp:,}, vocabulary "
        f"{args.vocabulary:,}; {args.sentences} sentences, {len(sentences)} in the naive way"
    )
    print(f"{'way':48s}{'s per sentence':>16s}{'ratio':>9s}")
    print(f"{'naive, model loaded (compressing included)':48s}{per_sentence:16.4f}{1:9.1f}")
    for name, seconds in (
        ("ours, the whole command", whole),
        ("ours, second call in a process (with loading)", second_call),
    ):
        ours = np.median(seconds) / args.sentences
        print(f"{name:48s}{ours:16.4f}{per_sentence / ours:9.1f}")
    parts = ", ".join(f"{name} {seconds / len(sentences):.3f}" for name, seconds in naive_parts.items())
    print(f"the naive way's s per sentence: {parts}")
    phases = json.loads((work / "ours_0_2" / "run.json").read_text(encoding="utf-8"))["runs"][-1]
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases["seconds_by_phase"].items())
    print(f"a second call of ours, s in all: {parts}")

    output = work / "ours_0_0"
    dense_bytes = sum(array.nbytes for array in naive.values()) / len(sentences)
    print(f"\n{'output':48s}{'MB per sentence':>16s}{'ratio':>9s}")
    for name, n_bytes in (
        ("naive, dense in memory", dense_bytes),
        ("naive, savez_compressed", folder_bytes(work / "naive.npz") / len(sentences)),
        ("ours, activations", folder_bytes(output / "sae_activations") / args.sentences),
        ("ours, the whole folder", folder_bytes(output) / args.sentences),
    ):
        print(f"{name:48s}{n_bytes / 1e6:16.3f}{dense_bytes / n_bytes:9.1f}")
    compare(naive, output, entries, len(sentences))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=26, help="blocks, each with one SAE (default: 26)")
    parser.add_argument("--sentences", type=int, default=20, help="of ours (default: 20)")
    parser.add_argument("--naive-sentences", type=int, default=20, help="of the naive way (default: 20)")
    parser.add_argument("--mlp", type=int, default=9216, help="width of the model's MLP (default: 9216)")
    parser.add_argument("--vocabulary", type=int, default=256_000, help="default: 256000")
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the median counts (default: 3)")
    args = parser.parse_args(argv)
    print(describe_machine(torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
