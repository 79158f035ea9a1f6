"""The CUDA path without a GPU: forward pass and both encoders on fake tensors, which know shape and device.

A tensor that was left on the CPU raises FakeTensorDeviceMismatchError. Values are not computed: what depends
on them (how many features fire) is given a number by the test.
"""

import numpy as np
import pytest
import torch
from autoencoders import csr_rows, screened_jump_relu
from autoencoders.jump_relu import JumpReluEncoder
from autoencoders.screened_jump_relu import Conditioning, screened
from extraction.sae_pass import LayerTokens
from language_model.padded_batch import PaddedBatch
from language_model.residual_stream import EMBEDDINGS, residual_stream_batches
from language_model.tokens import TokenizedSentences
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import Gemma2Config, Gemma2ForCausalLM

CUDA = torch.device("cuda", 0)
D_MODEL, D_SAE, N_TOKENS, CHUNK = 64, 256, 50, 20
FIRING = 7  # entries that every search on the device finds


@pytest.fixture
def fake():
    """Tensors made or moved here are fake, and may be on a CUDA device that is not there."""
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
        yield mode


@pytest.fixture
def searches(monkeypatch):
    """Where fake values are asked for, an answer; the devices of the tensors that were asked are listed."""
    asked = []

    def positions(chosen):
        asked.append(chosen.device)
        return torch.zeros(FIRING, dtype=torch.long, device=chosen.device)

    def numpy(tensor):
        assert tensor.device.type == "cpu", "only tensors in main memory become NumPy arrays"
        return np.zeros([size if isinstance(size, int) else FIRING for size in tensor.shape], np.int64)

    def sampled_addmm(pattern, left, right, beta):
        """Has no rule for fake tensors; its shape and device are those of the pattern."""
        assert pattern.device == left.device == right.device
        assert pattern.shape == (left.shape[0], right.shape[1])
        assert left.shape[1] == right.shape[0]
        return pattern

    for module in (csr_rows, screened_jump_relu):
        monkeypatch.setattr(module, "positions", positions)
    monkeypatch.setattr(torch.sparse, "sampled_addmm", sampled_addmm)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda _: True)
    monkeypatch.setattr(FakeTensor, "numpy", numpy, raising=False)
    return asked


def encoder_in_main_memory():
    return JumpReluEncoder(torch.randn(D_MODEL, D_SAE), torch.randn(D_SAE), torch.ones(D_SAE))


def layer_on(device, folder, most_bytes):
    np.save(folder / "layer_0.npy", np.ones((N_TOKENS, D_MODEL), np.float32))
    layer = LayerTokens(device, torch.float32, most_bytes)
    return layer, layer.of(folder / "layer_0.npy")


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["in pieces", "whole"])
@pytest.mark.parametrize("kind", ["dense", "screened", "screened, most tokens crowded"])
def test_both_encoders_run_on_the_device(tmp_path, monkeypatch, fake, searches, kind, most_bytes):
    layer, tokens = layer_on(CUDA, tmp_path, most_bytes)
    encoder = encoder_in_main_memory().to(CUDA, torch.float32)
    if kind != "dense":
        encoder = screened(encoder, layer.conditioning)
        assert encoder.screen.device == CUDA
        assert encoder.screen.dtype == torch.bfloat16
        assert encoder.screen.shape == (D_SAE, D_MODEL + screened_jump_relu.EXTRA)
    if kind == "screened, most tokens crowded":
        monkeypatch.setattr(screened_jump_relu, "DENSE_SHARE", 0.0)
    memory = []
    with torch.inference_mode():
        encoder.rows(tokens(0, CHUNK), memory)
    assert set(searches) == {CUDA}
    assert {array.device for array in memory} == {CUDA}
    values = {"dense": torch.float32}.get(kind, torch.bfloat16)
    assert [array.dtype for array in memory] == [values, torch.bool]


def test_a_centre_left_in_main_memory_is_found(fake):
    encoder = encoder_in_main_memory().to(CUDA, torch.float32)
    centre, scale = torch.zeros(D_MODEL), torch.ones(D_MODEL)
    with pytest.raises(FakeTensorDeviceMismatchError):
        screened(encoder, lambda: Conditioning(centre, scale))


@pytest.fixture
def model(fake):
    """A Gemma 2 that was made on the device; there are no weights to move there."""
    config = Gemma2Config(
        vocab_size=100,
        hidden_size=D_MODEL,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    with torch.device(CUDA):
        return Gemma2ForCausalLM(config).eval()


@pytest.fixture
def tokenized():
    return TokenizedSentences(
        token_ids=np.arange(8, dtype=np.int32),
        tokens=np.array(list("abcdefgh")),
        sentence_offsets=np.array([0, 3, 8]),
        bos_id=2,
    )


def test_the_forward_pass_runs_on_the_device(model, tokenized):
    entering = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    ((rows, states),) = residual_stream_batches(model, tokenized, [0, 2], [np.array([0, 1])])
    assert entering[0].device == CUDA
    assert entering[0].shape == (2, 6, D_MODEL)
    assert list(rows) == list(range(8))
    assert list(states) == [EMBEDDINGS, 0, 2]
    for values in states.values():
        assert values.device.type == "cpu"
        assert values.dtype == torch.float32
        assert values.shape[1] == D_MODEL


def test_a_batch_left_in_main_memory_is_found(monkeypatch, model, tokenized):
    of = PaddedBatch.of.__func__
    left = classmethod(lambda cls, tokenized, batch, device: of(cls, tokenized, batch, torch.device("cpu")))
    monkeypatch.setattr(PaddedBatch, "of", left)
    with pytest.raises(FakeTensorDeviceMismatchError):
        list(residual_stream_batches(model, tokenized, [0], [np.array([0, 1])]))
