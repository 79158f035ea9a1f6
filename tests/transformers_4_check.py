"""Run by test_s1_transformers_4.py in an environment with transformers 4: what is recorded there, as JSON."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from language_model.residual_stream import EMBEDDINGS, decoder_and_blocks, residual_stream_batches
from language_model.tokens import pack_batches, tokenize
from tiny_models import CORPUS, write_tiny_gemma2
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_gemma2(Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenized = tokenize(CORPUS, tokenizer, 256)
    batches = pack_batches(tokenized.n_positions, 10**6)
    [(rows, states)] = residual_stream_batches(model, tokenized, [0, 1, 2, 3], batches)
    embedded = model.model.embed_tokens.weight[tokenized.token_ids[rows]]  # [T, d_model], as stored
    looked_up = model.model.embed_tokens(torch.from_numpy(tokenized.token_ids[rows].astype(np.int64)))
    # The reference: one sentence alone, transformers' own hidden states; the last of them is normed.
    differences = []
    for index in range(len(CORPUS)):
        start, stop = tokenized.sentence_offsets[index : index + 2]
        ids = [tokenized.bos_id, *tokenized.token_ids[start:stop].tolist()]
        reference = model.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        mine = torch.from_numpy(np.flatnonzero((rows >= start) & (rows < stop)))
        pairs = [(states[EMBEDDINGS][mine], reference[0])]
        pairs += [(states[layer][mine], reference[layer + 1]) for layer in range(3)]
        pairs += [(model.model.norm(states[3][mine]), reference[4])]
        differences += [float((ours - theirs[0, 1:]).abs().max()) for ours, theirs in pairs]
    _, blocks = decoder_and_blocks(model)
    block_output = []
    blocks[0].register_forward_hook(lambda _module, _args, output: block_output.append(type(output).__name__))
    model.model(torch.tensor([ids]), use_cache=False)
    result = {
        "transformers": transformers.__version__,
        "block_output": block_output[0],
        "embedding_over_weight": float((states[EMBEDDINGS] / embedded).median()),
        "embed_tokens_over_weight": float((looked_up / embedded).median()),
        "largest_difference": max(differences),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
