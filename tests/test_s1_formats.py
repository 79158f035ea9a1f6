"""s1 on SAEs of sae-lens' formats: activations against sae-lens' own, the hub on loopback, each failure."""

import copy
import json
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from autoencoders.configurations import Configurations
from autoencoders.sae_lens_encoder import (
    read_sae_lens_decoder,
    read_sae_lens_encoder,
    require_sae_lens,
    sae_lens_weights_id,
)
from autoencoders.sae_lens_registry import hub_repository, layer_of_hook, registry
from autoencoders.sae_source import SaeSource
from extract_sae_features import main
from hub.encoder_cache import sae_repository
from huggingface_hub import constants
from loopback_hub import Repository, talking_to_loopback
from sae_lens import (
    SAE,
    AbsTopKSAE,
    AbsTopKSAEConfig,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    MatchingPursuitSAE,
    MatchingPursuitSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.loading import pretrained_sae_loaders
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_saes

D_MODEL, D_SAE = 16, 48
ARCHITECTURES = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5}),
    "topk rescaled": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "matching_pursuit": (MatchingPursuitSAE, MatchingPursuitSAEConfig, {"max_iterations": 6}),
}


def random_sae(architecture: str, *, hook_name="blocks.2.hook_resid_post", kwargs=None, seed=0, **settings):
    sae_class, config_class, own = ARCHITECTURES[architecture]
    metadata = SAEMetadata(hook_name=hook_name, model_from_pretrained_kwargs=kwargs)
    config = config_class(D_MODEL, D_SAE, **own, **settings, metadata=metadata)
    return with_random_weights(sae_class(config), seed)


def with_random_weights(sae, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return sae


def read(folder: Path, path: str = "sae", *, release=None, layer=2, d_sae=D_SAE, offline=False):
    return read_sae_lens_encoder(
        path, str(release or folder), layer, D_MODEL, d_sae, local_files_only=offline
    )


@pytest.fixture(scope="module")
def x():
    """`[64, D_MODEL]` float32 with a mean and a scale of its own in each row."""
    generator = torch.Generator().manual_seed(9)
    return 3 * torch.randn(64, D_MODEL, generator=generator) + torch.randn(64, 1, generator=generator)


@torch.inference_mode()
def assert_activations(encoder, x, expected, **tolerance):
    values, fires = encoder.activations(x)
    assert values.layout == torch.strided
    assert fires.dtype == torch.bool
    assert 0 < fires.sum() < fires.numel()
    torch.testing.assert_close(values, expected, **tolerance)
    assert torch.equal(fires, expected != 0)


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_those_of_sae_lens(architecture, normalization, x, tmp_path):
    sae = random_sae(architecture, normalize_activations=normalization)
    sae.save_model(tmp_path / "sae")
    expected = sae.encode(x).detach()
    encoder = read(tmp_path)
    assert encoder.d_sae == D_SAE
    assert_activations(encoder, x, expected)
    assert_activations(encoder, x[:1], expected[:1])  # another number of tokens, whatever encode keeps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_is_what_each_feature_adds_alone(architecture, tmp_path):
    sae = random_sae(architecture)
    sae.save_model(tmp_path / "sae")
    written = read_sae_lens_decoder("sae", str(tmp_path), 2, D_MODEL, D_SAE, local_files_only=False)
    with torch.inference_mode():
        for feature in (0, 17, D_SAE - 1):
            activations = torch.zeros(1, D_SAE)
            bias = sae.decode(activations)
            activations[0, feature] = 2
            expected = (sae.decode(activations) - bias)[0] / 2
            torch.testing.assert_close(written[feature], expected, rtol=1e-4, atol=1e-5)
    if architecture == "topk rescaled":  # activations that carry the norm write along unit rows
        torch.testing.assert_close(written.norm(dim=1), torch.ones(D_SAE), rtol=1e-4, atol=1e-5)


def test_a_decoder_that_writes_in_no_fixed_direction_is_refused(tmp_path):
    random_sae("standard", normalize_activations="layer_norm").save_model(tmp_path / "sae")
    with pytest.raises(ValueError, match=r"sae: rescales each token at run time \(layer_norm\)"):
        read_sae_lens_decoder("sae", str(tmp_path), 2, D_MODEL, D_SAE, local_files_only=False)


def test_topk_at_an_activation_of_zero_does_not_fire(tmp_path):
    random_sae("topk", apply_b_dec_to_input=False).save_model(tmp_path / "sae")
    weights = load_file(tmp_path / "sae/sae_weights.safetensors")
    weights["b_enc"] = -torch.ones(D_SAE)
    weights["b_enc"][7] = 2
    save_file(weights, tmp_path / "sae/sae_weights.safetensors")
    values, fires = read(tmp_path).activations(torch.zeros(3, D_MODEL))
    assert fires.sum(dim=1).tolist() == [1, 1, 1]
    assert values[:, 7].tolist() == [2, 2, 2]


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize(
    ("sae_class", "config_class", "own"),
    [
        (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {}),
        (
            MatryoshkaBatchTopKTrainingSAE,
            MatryoshkaBatchTopKTrainingSAEConfig,
            {"matryoshka_widths": [8, 16, D_SAE]},
        ),
    ],
)
def test_batchtopk_saved_for_inference_has_one_threshold(sae_class, config_class, own, rescaled, x, tmp_path):
    metadata = SAEMetadata(hook_name="blocks.2.hook_resid_post")
    config = config_class(D_MODEL, D_SAE, rescale_acts_by_decoder_norm=rescaled, metadata=metadata, **own)
    sae = with_random_weights(sae_class(config))
    sae.topk_threshold.fill_(4.0)
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if rescaled:
        z = z * sae.W_dec.norm(dim=1)
    expected = torch.where(z > 4, z, 0).detach()
    sae.save_inference_model(tmp_path / "sae")
    assert_activations(read(tmp_path), x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_for_another_dtype_leaves_the_original_alone(architecture, x, tmp_path):
    sae = random_sae(architecture, normalize_activations="layer_norm")
    sae.save_model(tmp_path / "sae")
    encoder = read(tmp_path)
    digest = encoder.sha256()
    half = copy.deepcopy(sae).to(torch.bfloat16)
    with torch.inference_mode():
        copied = encoder.to(torch.device("cpu"), torch.bfloat16)
        assert_activations(copied, x.bfloat16(), half.encode(x.bfloat16()))
        same = encoder.to(torch.device("cpu"), torch.float32)
        assert_activations(same, x, sae.encode(x))
    assert copied.sae.dtype == torch.bfloat16
    assert encoder.sha256() == digest == same.sha256() != copied.sha256()
    assert_activations(encoder, x, sae.encode(x).detach())


def test_the_digest_is_of_what_encoding_uses(tmp_path):
    def digest(change=None, architecture="jumprelu", **settings) -> str:
        sae = random_sae(architecture, **settings)
        if change:
            getattr(sae, change).data[0] += 1
        sae.save_model(tmp_path / "sae")
        return read(tmp_path).sha256()

    plain = digest()
    assert digest() == plain == digest("W_dec")
    without_bias = digest(apply_b_dec_to_input=False)
    assert digest("b_dec", apply_b_dec_to_input=False) == without_bias
    others = [digest(name) for name in ("W_enc", "b_enc", "b_dec", "threshold")]
    others += [without_bias, digest(normalize_activations="layer_norm"), digest(architecture="standard")]
    others += [digest(kwargs={"center_writing_weights": True})]
    assert len({plain, *others}) == len(others) + 1
    rescaled = digest(architecture="topk rescaled")
    assert digest("W_dec", "topk rescaled") != rescaled != digest(architecture="topk")


def test_sae_trained_on_centred_writing_weights_gets_a_centred_residual_stream(tmp_path):
    """The oracle is a GPT-2 whose writing weights are centred by hand."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=D_MODEL, n_layer=3, n_head=2)
    plain = GPT2Model(config).eval()
    for parameter in plain.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    centred = copy.deepcopy(plain)
    writing = [centred.wte.weight, centred.wpe.weight]
    for block in centred.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            writing += [projection.weight, projection.bias]
    for weight in writing:  # [..., D_MODEL]: what is added to the residual stream
        weight.data -= weight.data.mean(dim=-1, keepdim=True)

    def resid_post(model) -> torch.Tensor:
        # Index 0 is what enters block 0, so index 2 is after block 1.
        with torch.inference_mode():
            return model(torch.arange(20)[None], output_hidden_states=True).hidden_states[2][0]

    sae = random_sae("standard", hook_name="blocks.2.hook_resid_pre", kwargs={"center_writing_weights": True})
    sae.save_model(tmp_path / "sae")
    encoder = read(tmp_path, layer=1)
    expected = sae.encode(resid_post(centred)).detach()
    assert_activations(encoder, resid_post(plain), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sae.encode(resid_post(plain)), expected, atol=1e-2)

    sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": False, "fold_ln": True}
    sae.save_model(tmp_path / "sae")
    unprocessed = sae.encode(resid_post(plain)).detach()
    assert_activations(read(tmp_path, layer=1), resid_post(plain), unprocessed)


@pytest.mark.parametrize(
    ("hook_name", "layer"),
    [
        ("blocks.12.hook_resid_post", 12),
        ("blocks.12.hook_resid_pre", 11),
        ("blocks.0.hook_resid_pre", -1),
        ("blocks.3.hook_out", 3),
        ("blocks.3.hook_in", 2),
        ("model.layers.7", 7),
        ("model.language_model.layers.7.output", 7),
        ("transformer.h.5", 5),
        ("gpt_neox.layers.5", 5),
        ("blocks.3.hook_resid_mid", None),
        ("blocks.3.hook_mlp_out", None),
        ("blocks.3.attn.hook_z", None),
        ("model.layers.7.mlp", None),
        ("model.layers.7.input_layernorm.output", None),
        ("hook_embed", None),
    ],
)
def test_layer_of_hook(hook_name, layer):
    assert layer_of_hook(hook_name) == layer


def test_hub_repository():
    assert hub_repository("gemma-scope-2b-pt-res") == "google/gemma-scope-2b-pt-res"
    for other in ("google/gemma-scope-2b-pt-res", "./folder", "somebody/else"):
        assert hub_repository(other) == other


def no_weights(folder):
    (folder / "sae_weights.safetensors").unlink()


def truncated(folder):
    file = folder / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def without_b_enc(folder):
    weights = load_file(folder / "sae_weights.safetensors")
    del weights["b_enc"]
    save_file(weights, folder / "sae_weights.safetensors")


def setting(**changes):
    def change(folder):
        config = json.loads((folder / "cfg.json").read_text())
        config["metadata"] |= changes.pop("metadata", {})
        (folder / "cfg.json").write_text(json.dumps(config | changes))

    return change


def not_json(folder):
    (folder / "cfg.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "kind", "expected"),
    [
        (no_weights, FileNotFoundError, "sae_weights.safetensors: no such SAE file; check --sae-release"),
        (truncated, ValueError, "sae: damaged, or not an SAE .*delete .*sae_weights.safetensors and fetch"),
        (without_b_enc, ValueError, "sae: damaged, or not an SAE .*b_enc"),
        (not_json, ValueError, r"cfg.json: not a configuration of sae-lens"),
        (setting(d_sae=47), ValueError, "sae: damaged, or not an SAE .*size mismatch"),
        (setting(architecture="temporal"), ValueError, r"cfg.json: architecture 'temporal' is not supported"),
        (setting(architecture="batchtopk"), ValueError, r"'batchtopk' is not .*save_inference_model"),
        (
            setting(normalize_activations="expected_average_only_in"),
            ValueError,
            "sae: trained on inputs scaled by expected_average_only_in, which is not folded",
        ),
        (
            setting(normalize_activations="constant_scalar_rescale"),
            ValueError,
            "sae: damaged, or not an SAE .*normalize_activations must be",
        ),
        (
            setting(metadata={"hook_name": "blocks.2.hook_mlp_out"}),
            ValueError,
            r"sae: made for blocks.2.hook_mlp_out, .*after block 2 \(blocks.2.hook_resid_post\)",
        ),
        (setting(metadata={"hook_name": "blocks.2.hook_resid_pre"}), ValueError, "made for blocks.2.hook"),
        (setting(metadata={"hook_name": None}), ValueError, "made for an unknown place"),
    ],
)
def test_each_fault_of_a_local_sae_is_named(damage, kind, expected, tmp_path):
    random_sae("standard").save_model(tmp_path / "sae")
    damage(tmp_path / "sae")
    with pytest.raises(kind, match=expected) as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_sae_of_another_size_is_refused(tmp_path):
    random_sae("standard").save_model(tmp_path / "sae")
    with pytest.raises(ValueError, match="sae: d_in is 16, the model needs 32: this SAE belongs to another"):
        read_sae_lens_encoder("sae", str(tmp_path), 2, 32, D_SAE, local_files_only=False)
    with pytest.raises(ValueError, match="sae: d_sae is 48, the configuration says 64"):
        read(tmp_path, d_sae=64)
    assert read(tmp_path, d_sae=None).d_sae == D_SAE


def test_local_saes_are_checked_before_hours_are_spent(tmp_path):
    random_sae("standard").save_model(tmp_path / "sae")
    require_sae_lens(["sae"], str(tmp_path), local_files_only=False)
    with pytest.raises(FileNotFoundError, match=r"other/cfg.json: no such SAE file"):
        require_sae_lens(["sae", "other"], str(tmp_path), local_files_only=False)
    config = JumpReLUTranscoderConfig(D_MODEL, D_SAE, d_out=D_MODEL, apply_b_dec_to_input=False)
    JumpReLUTranscoder(config).save_model(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other/cfg.json: architecture 'jumprelu_transcoder' is not supp"):
        require_sae_lens(["sae", "other"], str(tmp_path), local_files_only=False)


def save_abstopk(folder: Path) -> None:
    metadata = SAEMetadata(hook_name="blocks.2.hook_resid_post")
    with_random_weights(AbsTopKSAE(AbsTopKSAEConfig(D_MODEL, D_SAE, k=5, metadata=metadata))).save_model(
        folder
    )


def test_saes_whose_features_have_a_sign_are_refused_before_the_run(tmp_path):
    save_abstopk(tmp_path / "sae")
    with pytest.raises(ValueError, match=r"sae/cfg.json: architecture 'abstopk' gives its features a sign"):
        require_sae_lens(["sae"], str(tmp_path), local_files_only=False)


def test_saes_of_a_repository_whose_features_have_a_sign_are_refused_before_the_run(hub, tmp_path):
    save_abstopk(tmp_path / "own/layer_2")
    hub.repositories["somebody/own-saes"] = Repository(tmp_path / "own")
    with pytest.raises(ValueError, match=r"^somebody/own-saes/layer_2/cfg.json: architecture 'abstopk'"):
        require_sae_lens(["layer_2"], "somebody/own-saes", local_files_only=False)
    assert not [request for request in hub.requests if request.path.endswith(".safetensors") and request.sent]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub to which huggingface_hub and sae-lens talk in this process: empty cache, no token, no waits."""
    with talking_to_loopback(monkeypatch, tmp_path) as hub:
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield hub


SCOPE_2 = "google/gemma-scope-2-270m-pt"
MEDIUM, SMALL = (f"resid_post/layer_5_width_16k_l0_{l0}" for l0 in ("medium", "small"))


@pytest.fixture
def scope_2(hub, tmp_path):
    """Two SAEs in Gemma Scope 2's layout, as its repository on the hub holds them; returns their folder."""
    folder = tmp_path / "scope-2"
    for seed, path in enumerate((MEDIUM, SMALL)):
        (folder / path).mkdir(parents=True)
        sae = random_sae("jumprelu", seed=seed)
        weights = {name.lower(): array.contiguous() for name, array in sae.state_dict().items()}
        save_file(weights, folder / path / "params.safetensors")
        config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "width": D_SAE}
        config |= {"hf_hook_point_in": "model.layers.5.output", "affine_connection": False}
        (folder / path / "config.json").write_text(json.dumps(config))
    hub.repositories[SCOPE_2] = Repository(folder)
    return folder


@pytest.mark.parametrize("release", [SCOPE_2, "gemma-scope-2-270m-pt-res"])
def test_gemma_scope_2_from_an_empty_cache_and_offline(release, hub, scope_2, x):
    require_sae_lens([MEDIUM, SMALL], release, local_files_only=False)
    assert [request.method for request in hub.requests] == ["HEAD", "HEAD"]  # each SAE is there
    encoder = read(None, MEDIUM, release=release, layer=5)
    params = {
        name: array.double() for name, array in load_file(scope_2 / MEDIUM / "params.safetensors").items()
    }
    z = x.double() @ params["w_enc"] + params["b_enc"]
    expected = torch.where(z > params["threshold"].clamp(min=0), z, 0).float()
    assert_activations(encoder, x, expected, rtol=1e-5, atol=1e-5)
    whole = (scope_2 / MEDIUM / "params.safetensors").stat().st_size
    assert hub.bytes_sent(".safetensors") == whole  # once

    hub.requests.clear()
    require_sae_lens([MEDIUM], release, local_files_only=True)
    offline = read(None, MEDIUM, release=release, layer=5, offline=True)
    assert offline.sha256() == encoder.sha256()
    assert not hub.requests
    for missing in (
        lambda: require_sae_lens([MEDIUM, SMALL], release, local_files_only=True),
        lambda: read(None, SMALL, release=release, layer=5, offline=True),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{SCOPE_2}/{SMALL}.*not in the local cache.*run once"):
            missing()
    assert not hub.requests
    assert read(None, SMALL, release=release, layer=5).sha256() != encoder.sha256()  # online again


def test_what_identifies_an_sae_changes_with_its_weights(hub, scope_2, tmp_path):
    def weights_id(offline=False) -> str:
        sae_repository.cache_clear()
        return sae_lens_weights_id(MEDIUM, SCOPE_2, local_files_only=offline)

    read(None, MEDIUM, release=SCOPE_2, layer=5)
    before = weights_id()
    assert before == weights_id(offline=True) != sae_lens_weights_id(SMALL, SCOPE_2, local_files_only=False)
    hub.repositories[SCOPE_2].commit = "d" * 40
    assert weights_id() == before
    weights = load_file(scope_2 / MEDIUM / "params.safetensors")
    save_file(weights | {"b_enc": weights["b_enc"] + 1}, scope_2 / MEDIUM / "params.safetensors")
    assert weights_id() != before

    ids = []
    for seed in (0, 0, 1):
        random_sae("gated", seed=seed).save_model(tmp_path / "sae")
        ids.append(sae_lens_weights_id("sae", str(tmp_path), local_files_only=False))
    assert ids[0] == ids[1] != ids[2]


def test_gemma_scope_2_is_what_sae_lens_alone_loads(hub, scope_2, x):
    """sae-lens asks for the shapes by requests of its own; that they are read elsewhere changes nothing."""
    alone = SAE.from_pretrained("gemma-scope-2-270m-pt-res", MEDIUM.removeprefix("resid_post/"))
    encoder = read(None, MEDIUM, release=SCOPE_2, layer=5)
    assert_activations(encoder, x, alone.encode(x).detach())
    assert vars(encoder.sae.cfg.metadata) == vars(alone.cfg.metadata)


def test_settings_of_the_process_are_put_back(hub, scope_2, monkeypatch):
    """Also after a failure, and when several threads read at once."""
    before = constants.HF_HUB_OFFLINE, pretrained_sae_loaders.get_safetensors_tensor_shapes
    with pytest.raises(FileNotFoundError):
        read(None, MEDIUM, release=SCOPE_2, layer=5, offline=True)
    threads = [
        threading.Thread(target=read, args=(None, path), kwargs={"release": SCOPE_2, "layer": 5})
        for path in (MEDIUM, SMALL, MEDIUM, SMALL)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == (constants.HF_HUB_OFFLINE, pretrained_sae_loaders.get_safetensors_tensor_shapes)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as the variable HF_HUB_OFFLINE does
    hub.requests.clear()
    assert read(None, MEDIUM, release=SCOPE_2, layer=5).d_sae == D_SAE
    assert constants.HF_HUB_OFFLINE
    assert not hub.requests


def write_llama_scope(folder: Path) -> str:
    path = "Llama3_1-8B-Base-L3R-8x"
    (folder / path / "checkpoints").mkdir(parents=True)
    config = {"d_model": D_MODEL, "d_sae": D_SAE, "jump_relu_threshold": 0.5}
    config |= {"dataset_average_activation_norm": {"in": 8.0}, "hook_point_in": "blocks.3.hook_resid_post"}
    (folder / path / "hyperparams.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(3)
    shapes = {"encoder.weight": (D_SAE, D_MODEL), "encoder.bias": (D_SAE,)}
    shapes |= {"decoder.weight": (D_MODEL, D_SAE), "decoder.bias": (D_MODEL,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / path / "checkpoints/final.safetensors")
    return path


def test_llama_scope_with_the_registrys_scale_folded_in(hub, tmp_path, x):
    path = write_llama_scope(tmp_path / "llama")
    hub.repositories["fnlp/Llama3_1-8B-Base-LXR-8x"] = Repository(tmp_path / "llama")
    encoder = read(None, path, release="llama_scope_lxr_8x", layer=3)
    weights = load_file(tmp_path / "llama" / path / "checkpoints/final.safetensors")
    entry = next(s for s in registry()["llama_scope_lxr_8x"]["saes"] if str(s["path"]) == path)
    z = entry["norm_scaling_factor"] * x @ weights["encoder.weight"].T + weights["encoder.bias"]
    expected = torch.where(z > 0.5 * D_MODEL**0.5 / 8, z, 0)
    assert_activations(encoder, x, expected, rtol=1e-4, atol=1e-5)


def test_dictionary_learning_from_its_own_file(hub, tmp_path, x):
    path = "resid_post_layer_3/trainer_1"
    folder = tmp_path / "dictionary" / path
    folder.mkdir(parents=True)
    trainer = {"layer": 3, "dict_class": "BatchTopKSAE", "activation_dim": D_MODEL, "dict_size": D_SAE}
    config = {"trainer": trainer | {"lm_name": "Qwen/Qwen2.5-7B-Instruct"}, "buffer": {"ctx_len": 64}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(4)
    weights = {
        "encoder.weight": torch.randn(D_SAE, D_MODEL),
        "encoder.bias": torch.randn(D_SAE),
        "decoder.weight": torch.randn(D_MODEL, D_SAE),
        "b_dec": torch.randn(D_MODEL),
        "threshold": torch.tensor(4.0),
        "k": torch.tensor(5),
    }
    torch.save(weights, folder / "ae.pt")
    hub.repositories["andyrdt/saes-qwen2.5-7b-instruct"] = Repository(tmp_path / "dictionary")
    encoder = read(None, path, release="andyrdt/saes-qwen2.5-7b-instruct", layer=3)
    z = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    assert_activations(encoder, x, torch.where(z > 4, z, 0), rtol=1e-4, atol=1e-5)
    (folder / "ae.pt").write_bytes(b"PK\x03\x04 no more")
    hub.repositories["andyrdt/saes-qwen2.5-7b-instruct"].commit = "d" * 40
    with pytest.raises(
        ValueError, match=rf"^andyrdt/saes-qwen2.5-7b-instruct/{path}: damaged.*{tmp_path}/hf"
    ):
        read(None, path, release="andyrdt/saes-qwen2.5-7b-instruct", layer=3)


JB, JB_PATH = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.2.hook_resid_pre"


@pytest.fixture
def gpt2_jb(hub, tmp_path):
    """The GPT-2 release of sae-lens' first format: no architecture, no metadata, centring in the registry."""
    folder = tmp_path / "jb" / JB_PATH
    sae = random_sae("standard")
    sae.save_model(folder)
    config = {"hook_point": JB_PATH, "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "torch.float32"}
    (folder / "cfg.json").write_text(json.dumps(config))
    hub.repositories[JB] = Repository(tmp_path / "jb")
    return sae


def test_gpt2_of_the_first_format_is_centred_as_the_registry_says(hub, gpt2_jb, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = read(None, JB_PATH, release="gpt2-small-res-jb", layer=1, d_sae=None)
    assert encoder.centre
    expected = gpt2_jb.encode(x - x.mean(dim=1, keepdim=True)).detach()
    assert_activations(encoder, x, expected)
    hub.requests.clear()
    again = read(None, JB_PATH, release=JB, layer=1, offline=True)
    assert again.sha256() == encoder.sha256()
    assert not hub.requests


def test_a_repository_that_no_registry_knows_is_in_the_disk_format(hub, tmp_path, x):
    sae = random_sae("gated")
    sae.save_model(tmp_path / "own/layer_2")
    hub.repositories["somebody/own-saes"] = Repository(tmp_path / "own")
    require_sae_lens(["layer_2"], "somebody/own-saes", local_files_only=False)
    assert_activations(read(None, "layer_2", release="somebody/own-saes"), x, sae.encode(x).detach())
    with pytest.raises(FileNotFoundError, match=r"^somebody/own-saes has no file layer_3/"):
        require_sae_lens(["layer_3"], "somebody/own-saes", local_files_only=False)


@pytest.mark.parametrize(
    ("access", "path", "kind", "expected"),
    [
        ("gated", JB_PATH, FileNotFoundError, f"^{JB} is gated: log in with `hf auth login`"),
        ("private", JB_PATH, FileNotFoundError, f"^{JB} is not on the hub, or it is private.*"),
        ("open", "blocks.3.hook_resid_pre", FileNotFoundError, f"^{JB} has no file blocks.3.*--sae-release"),
        ("open", "blocks.3", ValueError, "^gpt2-small-res-jb/blocks.3: sae-lens' registry has no such SAE"),
    ],
)
def test_each_failure_of_the_hub_is_one_line_at_once_and_later(access, path, kind, expected, hub, gpt2_jb):
    hub.repositories[JB].access = access
    for attempt in (
        lambda: require_sae_lens([path], "gpt2-small-res-jb", local_files_only=False),
        lambda: read(None, path, release="gpt2-small-res-jb", layer=2),
    ):
        with pytest.raises(kind, match=expected) as raised:
            attempt()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("release", "path", "found"),
    [
        ("temporal-sae-gemma-2-2b", "gemma-2-2B/layer_12/temporal", "temporal"),
        ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", "gemma_2_transcoder"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "13", "mntss_clt_layer_transcoder"),
        ("google/gemma-scope-2-270m-pt", "transcoder_all/layer_0_width_16k_l0_big", "jumprelu_transcoder"),
    ],
)
def test_what_does_not_encode_the_residual_stream_is_refused_by_name(release, path, found, hub, scope_2):
    if release == SCOPE_2:
        weights = load_file(scope_2 / MEDIUM / "params.safetensors")
        (scope_2 / path).mkdir(parents=True)
        save_file(weights, scope_2 / path / "params.safetensors")
    with pytest.raises(ValueError, match=rf"{path}: .*{found}.*residual stream token by token"):
        read(None, path, release=release, layer=0)


def test_the_command_encodes_what_sae_lens_saved(tiny_gemma2, tmp_path):
    """TopK, gated and ReLU SAEs beside Gemma Scope's layout, in one folder, through the whole extraction."""
    saes, entries = {}, []
    for layer, average_l0, kind in [(0, 5, "topk"), (2, 7, "gated"), (2, 8, "standard")]:
        sae_class, config_class, own = ARCHITECTURES[kind]
        metadata = SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post")
        sae = with_random_weights(sae_class(config_class(32, D_SAE, **own, metadata=metadata)))
        sae.save_model(tmp_path / "saes" / kind)
        saes[f"sae_activations/layer_{layer}_l0_{average_l0}.npz"] = sae
        entries.append({"layer": layer, "average_l0": average_l0, "path": kind, "d_sae": None})
    write_tiny_saes(tmp_path / "scope", layers=((3, 4),), d_model=32)
    shutil.copytree(tmp_path / "scope/layer_3", tmp_path / "saes/layer_3")
    entries += json.loads((tmp_path / "scope/configurations.json").read_text())["saes"]
    config = {"release": "mixed", "repo_id": None, "model": "tiny", "saes": entries}
    (tmp_path / "mixed.json").write_text(json.dumps(config))
    text = "sentence,concept_strength_label\nHe kept the change.,2\nIt rained all day long.,0\n"
    (tmp_path / "s.csv").write_text(text)
    arguments = ["--input", tmp_path / "s.csv", "--output", tmp_path / "out", "--model", tiny_gemma2]
    arguments += ["--config", tmp_path / "mixed.json", "--sae-release", tmp_path / "saes", "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    for file, sae in saes.items():
        layer = sae.cfg.metadata.hook_name.split(".")[1]
        states = torch.from_numpy(np.load(tmp_path / f"out/residual_stream/layer_{layer}.npy"))
        expected = sae.encode(states).detach().numpy()
        written = scipy.sparse.load_npz(tmp_path / "out" / file)
        np.testing.assert_allclose(written.toarray(), expected, rtol=1e-5, atol=1e-6)
        assert written.nnz == (expected != 0).sum() > 0
    described = json.loads((tmp_path / "out/run.json").read_text())["saes"]
    assert [sae["d_sae"] for sae in described] == [D_SAE, D_SAE, D_SAE, 128]


def test_sae_release_takes_a_name_of_the_registry(tmp_path):
    where = tmp_path / "c.json"
    repository = "google/gemma-scope-2b-pt-res"
    scope = Configurations(where, "gemma-scope-2b-pt-res", "m", repository, "params.npz", ())
    other = Configurations(where, "llama_scope_lxr_8x", "m", "fnlp/Llama3_1-8B-Base-LXR-8x", "sae-lens", ())

    def place(release, configurations):
        return SaeSource.of(configurations, release).place

    for named in (None, "gemma-scope-2b-pt-res", "google/gemma-scope-2b-pt-res"):
        assert place(named, scope) == "google/gemma-scope-2b-pt-res"
    assert place("gemma-scope-2b-pt-mlp", scope) == "google/gemma-scope-2b-pt-mlp"
    assert place(str(tmp_path), scope) == str(tmp_path)
    assert place(None, other) == "llama_scope_lxr_8x"
    with pytest.raises(ValueError, match="names no repo_id"):
        place(None, Configurations(where, "x", "m", None, "params.npz", ()))
