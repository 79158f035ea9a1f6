"""How the shipped SAEs came about: which text is taken, and that each step goes on where it was stopped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

DEMO = Path(__file__).resolve().parents[1] / "s1_compute_all_features/demo"
sys.path.append(str(DEMO))

import activation_store  # noqa: E402
import people_prose  # noqa: E402
import train_demo_saes  # noqa: E402
from batch_top_k import SparseBatchTopKTrainingSAE, largest  # noqa: E402
from language_model.model_source import load_model  # noqa: E402
from language_model.residual_stream import residual_stream_batches  # noqa: E402
from language_model.tokens import tokenize  # noqa: E402


def test_sentences_keep_their_quotation_marks():
    text = 'He said: "Stop!" Then he left.\nA heading\n\nIt rained (hard). So?'
    assert people_prose.sentences(text) == [
        'He said: "Stop!"',
        "Then he left.",
        "A heading",
        "It rained (hard).",
        "So?",
    ]


def test_passages_end_at_sentence_ends():
    parts = [f"{i} " + "word " * 29 + "end." for i in range(7)]
    passages = list(people_prose.sentence_passages(parts))
    assert all(passage.endswith("end.") for passage in passages)
    assert [len(passage.split()) for passage in passages] == [93, 93, 31]


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("She had never gone there, and the shop was closed.", True),
        ("Essas pessoas que você mencionou me auxiliaram ao longo do tempo nessa atividade política", False),
        ("def __init__(self, function): self.function = function return lambda x: x + 1", False),
        ("(7*(4-3)) 8 6 3 * + 12 99", False),
        ("The shop.", False),
    ],
)
def test_what_is_taken_for_english(text, english):
    assert people_prose.is_english(text) == english


def test_no_sentence_twice_and_none_of_the_yardstick(monkeypatch):
    task = (DEMO / "yardstick_tasks.txt").read_text(encoding="utf-8").splitlines()[0]
    kept = "There was a dog in the garden of the house."
    texts = {task: ["This one is on the yardstick, so that it is left out."]}
    monkeypatch.setattr(people_prose, "PROSE", ("a", "b"))
    texts["a"] = [kept, f"This one is on the yardstick, so that it is left out! {kept}"]
    texts["b"] = [f"It is also in this data set: {kept}", "And THERE was a dog in the garden of the house."]
    monkeypatch.setattr(people_prose, "sae_probes_data", lambda: None)
    monkeypatch.setattr(people_prose, "prompts", lambda _, name: texts.get(name, []))
    said = list(people_prose.prose(None))
    assert sum("dog in the garden" in passage.lower() for passage in said) == 3  # one, and two that differ
    assert said.count(kept) == 1
    assert not any("yardstick" in passage for passage in said)


def test_prose_and_yardstick_share_no_data_set():
    tasks = set((DEMO / "yardstick_tasks.txt").read_text(encoding="utf-8").splitlines())
    assert len(tasks) >= 30
    assert not tasks & set(people_prose.PROSE)
    assert len(set(people_prose.PROSE)) == len(people_prose.PROSE)


@pytest.fixture
def text(tmp_path, tiny_gemma2, monkeypatch):
    """A source of 60 texts, and a tiny model in place of the embedded one."""
    monkeypatch.setattr(activation_store, "demo_model_folder", lambda: tiny_gemma2)
    monkeypatch.setattr(activation_store, "TOKENS_BY_SOURCE", {"own": 10_000})
    monkeypatch.setattr(activation_store, "BATCHES_A_STEP", 2)
    words = np.random.default_rng(0).choice(["the", "dog", "sat", "down", "again"], size=(60, 12))
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [json.dumps({"text": " ".join(row[: 4 + i % 9])}) for i, row in enumerate(words)]
    (folder / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


class Killed(Exception):
    pass


def test_a_collection_that_was_killed_goes_on_and_ends_the_same(text, tmp_path, monkeypatch):
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    activation_store.collect(text, tmp_path / "once", [1, 3], batch_tokens=300)

    plain, written = activation_store.write_json, []

    def killed_after_two_steps(path, content):
        plain(path, content)
        written.append(path.name)
        if written.count("collected.json") == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(activation_store, "write_json", killed_after_two_steps)
        with pytest.raises(Killed):
            activation_store.collect(text, tmp_path / "twice", [1, 3], batch_tokens=300)
    assert not (tmp_path / "twice/text.json").exists()
    activation_store.collect(text, tmp_path / "twice", [1, 3], batch_tokens=300)
    for name in ("layer_1.f16", "layer_3.f16", "scale.npz", "text.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name
    shape = np.load(tmp_path / "once/scale.npz")["shape"]
    stored = np.fromfile(tmp_path / "once/layer_3.f16", np.float16).reshape(shape)
    assert (stored != 0).any(axis=1).all(), "every token has its activations"
    assert json.loads((tmp_path / "once/text.json").read_text())["own"]["tokens"] == len(stored)


def test_what_was_written_after_the_last_mark_is_written_again(text, tmp_path):
    """A kill between the activations and the mark of their step leaves rows that nobody counted."""
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        activation_store.collect(text, tmp_path / name, [1], batch_tokens=300)
    (tmp_path / "twice/text.json").unlink()
    (tmp_path / "twice/collected.json").write_text('{"batches": 2}')
    activation_store.collect(text, tmp_path / "twice", [1], batch_tokens=300)
    assert (tmp_path / "once/layer_1.f16").read_bytes() == (tmp_path / "twice/layer_1.f16").read_bytes()


def test_held_out_rows_are_the_tokens_of_the_held_out_texts(text, tmp_path):
    """Rows lie in the order of batches, shortest text first, and the marks of what is held out with them."""
    (tmp_path / "work").mkdir()
    activation_store.collect(text, tmp_path / "work", [1], batch_tokens=300)
    scale = np.load(tmp_path / "work/scale.npz")
    stored = np.fromfile(tmp_path / "work/layer_1.f16", np.float16).reshape(scale["shape"])
    model, tokenizer = load_model(
        str(activation_store.demo_model_folder()), dtype=torch.float32, device=torch.device("cpu")
    )
    pieces, held_out, _ = activation_store.split_texts(text, tokenizer, context=127)
    of_held_out = tokenize([piece for piece, held in zip(pieces, held_out) if held], tokenizer, 10_000)
    one_by_one = [np.array([i]) for i in range(sum(held_out))]
    states = [batch[1].numpy() for _, batch in residual_stream_batches(model, of_held_out, [1], one_by_one)]
    expected = (np.concatenate(states) - scale["mean_1"]) / scale["scale_1"]
    assert 0 < scale["held_out"].sum() == len(expected)
    found = stored[scale["held_out"]].astype(np.float32)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.02)


def test_a_folder_of_other_text_is_refused(text, tmp_path):
    (tmp_path / "work").mkdir()
    activation_store.collect(text, tmp_path / "work", [1], batch_tokens=300)
    (text / "own.jsonl").write_text(json.dumps({"text": "the dog sat down again"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"begun with other text.*empty folder"):
        activation_store.collect(text, tmp_path / "work", [1], batch_tokens=300)


@pytest.mark.parametrize("x", ["normal", "few positive", "ties"])
def test_the_largest_values_are_found_among_few(x):
    flat = {
        "normal": torch.randn(130_000, generator=torch.Generator().manual_seed(0)),
        "few positive": torch.eye(256, 512).flatten(),
        "ties": torch.ones(130_000),
    }[x]
    places = largest(flat, 2048)
    assert len(places.unique()) == 2048
    assert torch.equal(flat[places].sort().values, flat.topk(2048).values.sort().values)


@torch.no_grad()
def float32_scores(sae, x: torch.Tensor) -> torch.Tensor:
    return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=1)


def trained_one_step(kind: type, n_dead: int, monkeypatch):
    """Return the SAE, the output of a training step, and the gradient of every weight."""
    # Scores in bfloat16 would select other features at the margin.
    monkeypatch.setattr(SparseBatchTopKTrainingSAE, "scores", float32_scores)
    torch.manual_seed(0)
    config = BatchTopKTrainingSAEConfig(d_in=32, d_sae=128, k=6, apply_b_dec_to_input=True)
    sae = kind(config)
    for weights in sae.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    step = TrainStepInput(
        sae_in=torch.randn(300, 32),
        coefficients={},
        dead_neuron_mask=torch.arange(128) < n_dead,
        n_training_steps=0,
        is_logging_step=False,
    )
    output = sae.training_forward_pass(step)
    output.loss.backward()
    return sae, output, {name: weights.grad for name, weights in sae.named_parameters()}


@pytest.mark.parametrize("n_dead", [0, 5, 40], ids="{} dead".format)
def test_a_sparse_training_step_is_sae_lens_step(n_dead, monkeypatch):
    """16 of the 40 dead features reconstruct what is left: half the dimensions of the input."""
    (sparse, found, gradients), (dense, expected, expected_gradients) = (
        trained_one_step(kind, n_dead, monkeypatch)
        for kind in (SparseBatchTopKTrainingSAE, BatchTopKTrainingSAE)
    )
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.sae_out, expected.sae_out)
    torch.testing.assert_close(sparse.topk_threshold, dense.topk_threshold)
    assert torch.equal(found.feature_acts.to_dense().bool(), expected.feature_acts.bool())
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_from_its_checkpoint_and_ends_the_same(tmp_path, monkeypatch):
    store = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float16)
    rows, samples = np.arange(5000), 40 * train_demo_saes.BATCH
    once = train_demo_saes.train(store, rows, 4, 64, samples, 0, tmp_path / "once")

    plain, taken = train_demo_saes.Shuffled.__next__, []

    def killed_after_thirty(self):
        taken.append(None)
        if len(taken) == 30:
            raise Killed
        return plain(self)

    with monkeypatch.context() as patched:
        patched.setattr(train_demo_saes.Shuffled, "__next__", killed_after_thirty)
        with pytest.raises(Killed):
            train_demo_saes.train(store, rows, 4, 64, samples, 0, tmp_path / "twice")
    taken.clear()
    monkeypatch.setattr(
        train_demo_saes.Shuffled, "__next__", lambda self: (taken.append(None), plain(self))[1]
    )
    twice = train_demo_saes.train(store, rows, 4, 64, samples, 0, tmp_path / "twice")
    assert len(taken) < 20, "the rest only"
    for name, array in once.state_dict().items():
        np.testing.assert_allclose(twice.state_dict()[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
