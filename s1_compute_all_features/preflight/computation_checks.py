"""Checks of what is computed: the built-in sentences through the model and the first SAE."""

import math

import numpy as np
import torch
from language_model.residual_stream import EMBEDDINGS, decoder_and_blocks
from preflight.examination import REINSTALL, SENTENCES, Examination, Result

EMBEDDING_TOLERANCE = 0.01  # bfloat16 rounds the scale itself, by 0.2 %
# An SAE that meets the residual stream it was trained on stays within these on the built-in sentences.
L0_FACTOR = 2  # between the mean number of firing features and the one in its name, either way
LEAST_EXPLAINED = 0.5  # share of the variance
OTHER_STREAM = (
    "this may not be the residual stream it was trained on (another model, quantised weights, another layer)"
)


def check_model(exam: Examination) -> tuple[Result, str]:
    plan, compute = exam.plan, exam.plan.compute
    exam.model = plan.model.load_weights(plan.config, dtype=compute.dtype, device=compute.device)
    for key, states in exam.one_by_one.items():
        if not np.isfinite(states).all():
            where = "what enters block 0" if key == EMBEDDINGS else f"the residual stream after block {key}"
            raise ValueError(
                f"{where} is not finite in {exam.plan.compute.dtype_name}: use --dtype float32"
                + " or bfloat16" * (exam.plan.compute.dtype_name == "float16")
            )
    largest = max(float(np.abs(states).max()) for states in exam.one_by_one.values())
    return (
        Result.OK,
        f"loaded; {len(SENTENCES)} sentences, {len(exam.tokenized.token_ids)} tokens, all values finite, "
        f"the largest {largest:,.0f}",
    )


def check_bos(exam: Examination) -> tuple[Result, str]:
    bos_id = exam.tokenized.bos_id
    if bos_id is None:
        detail = "the tokenizer has no BOS token"
        if exam.is_gemma:
            raise ValueError(
                f"{detail}, without which Gemma's residual stream is not the one SAEs were trained on: "
                "use the tokenizer files of the model's own repository"
            )
        return Result.WARNING, f"{detail}: sentences start without one; check that the SAEs were trained so"
    seen = []
    hook = exam.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0]))
    try:
        exam.residual_stream([np.array([0])])
    finally:
        hook.remove()
    ids = seen[0][0].tolist()
    if ids.count(bos_id) != 1 or ids[0] != bos_id:
        raise ValueError(
            f"{SENTENCES[0]!r} enters the model as {ids}, not with one BOS ({bos_id}): {REINSTALL}"
        )
    return Result.OK, f"one before each sentence, id {bos_id} ({exam.plan.tokenizer.bos_token})"


def check_embeddings(exam: Examination) -> tuple[Result, str]:
    weight = exam.model.get_input_embeddings().weight
    rows = weight[exam.tokenized.token_ids.astype(np.int64)].detach().float().cpu().numpy()  # [T, d_model]
    entering = exam.one_by_one[EMBEDDINGS]  # [T, d_model]
    scale = float((entering * rows).sum() / (rows * rows).sum())  # least squares
    is_multiple = np.linalg.norm(entering - scale * rows) <= EMBEDDING_TOLERANCE * np.linalg.norm(entering)
    expected = math.sqrt(exam.plan.d_model)
    if exam.is_gemma:
        detail = f"embedding rows times {scale:.2f} enter block 0; √d_model is {expected:.2f}"
        if not is_multiple or abs(scale / expected - 1) > EMBEDDING_TOLERANCE:
            raise ValueError(f"{detail}: {REINSTALL}")
        return Result.OK, detail
    if is_multiple:
        return Result.OK, f"embedding rows times {scale:.2f} enter block 0"
    return Result.OK, "no multiple of the embedding rows enters block 0 (positions or a norm are added)"


def check_hidden_states(exam: Examination) -> tuple[Result, str]:
    decoder, blocks = decoder_and_blocks(exam.model)
    last, (limit, _) = len(blocks) - 1, exam.limits
    ours, reference = exam.one_by_one, hidden_states_of_transformers(exam, decoder)
    difference = {layer: relative_difference(ours[layer], reference[layer]) for layer in exam.plan.layers}
    others = [layer for layer in exam.plan.layers if layer != last]
    for layer in others:
        if not difference[layer] <= limit:
            raise ValueError(
                f"after block {layer}, ours differ from transformers' hidden_states by "
                f"{difference[layer]:.1e} (limit {limit:.0e}): {REINSTALL}"
            )
    worst = max((difference[layer] for layer in others), default=0)
    detail = f"differ from transformers' hidden_states by {worst:.1e} at most (limit {limit:.0e})"
    if last not in exam.plan.layers:
        return Result.OK, detail
    norms = [module for module in decoder.children() if "norm" in type(module).__name__.lower()]
    if not norms:
        return Result.WARNING, f"{detail}; no final norm found, so the last layer was not compared"
    with torch.inference_mode():
        normed = (
            norms[-1](torch.from_numpy(ours[last]).to(exam.plan.compute.device, exam.plan.compute.dtype))
            .float()
            .cpu()
            .numpy()
        )
    normed_difference = relative_difference(normed, reference[last])
    # A norm of weight one leaves what has passed it as it is, so it must also have changed something.
    if difference[last] <= limit or not normed_difference <= limit:
        raise ValueError(
            f"after block {last}, the last one, ours are not the residual stream before the final norm "
            f"(normed, they differ from transformers' by {normed_difference:.1e}): {REINSTALL}"
        )
    return Result.OK, f"{detail}; the last layer is before the final norm"


def hidden_states_of_transformers(exam: Examination, decoder) -> list[np.ndarray]:
    """Return `output_hidden_states` after each block, `[T, d_model]`, one sentence at a time, BOS dropped."""
    tokenized = exam.tokenized
    bos = [tokenized.bos_id] if tokenized.bos_id is not None else []
    per_sentence = []
    with torch.inference_mode():
        for ids in np.split(tokenized.token_ids, tokenized.sentence_offsets[1:-1]):
            input_ids = torch.tensor([bos + ids.tolist()], device=exam.plan.compute.device)
            states = decoder(input_ids=input_ids, output_hidden_states=True, use_cache=False).hidden_states
            per_sentence.append([state[0, len(bos) :].float().cpu().numpy() for state in states[1:]])
    return [np.concatenate(layer) for layer in zip(*per_sentence)]


def check_batches(exam: Examination) -> tuple[Result, str]:
    limit, _ = exam.limits
    # np.max, not max: a difference that is not a number must fail.
    worst = np.max([relative_difference(exam.together[key], exam.one_by_one[key]) for key in exam.together])
    lengths = exam.tokenized.n_tokens
    detail = (
        f"{len(SENTENCES)} sentences of {lengths.min()} to {lengths.max()} tokens: residual stream equal to "
        f"{worst:.1e} of its norm (limit {limit:.0e})"
    )
    if not worst <= limit:
        raise ValueError(f"{detail}: padding reaches other tokens; use --batch-tokens 1, or {REINSTALL}")
    return Result.OK, detail


def check_sae_batches(exam: Examination) -> tuple[Result, str]:
    layer, (_, limit) = exam.plan.entries[0].layer, exam.limits
    together, single = exam.fires(exam.together[layer]), exam.fires(exam.one_by_one[layer])
    changed, active = int((together != single).sum()), int(single.sum())
    detail = f"{changed} of {active} active features change (limit {limit:.1%})"
    if changed > limit * active:
        raise ValueError(f"{detail}: use --batch-tokens 1, or --dtype float32")
    return Result.OK, detail


def check_l0(exam: Examination) -> tuple[Result, str]:
    entry = exam.plan.entries[0]
    measured = exam.fires(exam.one_by_one[entry.layer]).sum(axis=1).mean()
    if not entry.average_l0:
        return Result.OK, f"{measured:.0f} on the built-in sentences; its name has none to compare"
    detail = f"{measured:.0f} on the built-in sentences, {entry.average_l0} in its name"
    if not entry.average_l0 / L0_FACTOR <= measured <= entry.average_l0 * L0_FACTOR:
        return Result.WARNING, f"{detail}: {OTHER_STREAM}"
    return Result.OK, detail


def check_explained_variance(exam: Examination) -> tuple[Result, str]:
    """Up to a constant, so that the decoder's bias is not needed."""
    saes, entry = exam.plan.saes, exam.plan.entries[0]
    try:
        w_dec = saes.read_decoder(entry, exam.plan.d_model).numpy()  # [d_sae, d_model]
    except (ValueError, FileNotFoundError) as error:
        return Result.NOT_CHECKED, str(error)
    x = exam.one_by_one[entry.layer].astype(np.float64)  # [T, d_model]
    left = (x - exam.activations(exam.one_by_one[entry.layer]) @ w_dec).var(axis=0)  # [d_model]
    variance = x.var(axis=0)  # [d_model]
    others = np.arange(len(variance)) != variance.argmax()
    explained = 1 - left.sum() / variance.sum()
    explained_of_others = 1 - left[others].sum() / variance[others].sum()
    detail = (
        f"{explained:.2f} on the built-in sentences; {explained_of_others:.2f} without the dimension that "
        f"holds most, {variance.max() / variance.sum():.0%}"
    )
    if not min(explained, explained_of_others) >= LEAST_EXPLAINED:
        return Result.WARNING, f"{detail}: {OTHER_STREAM}"
    return Result.OK, detail


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest norm of a row's difference, relative to the row's norm. Both `[T, d_model]`."""
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())
