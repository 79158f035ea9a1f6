"""First-order effects of SAE features on a sentence's log-likelihood, all features of an SAE at once.

With g_t = ∂ℓ_i/∂resid_post at token t of sentence i (nats; likelihood_gradients.py) and W_dec[f] the
direction in which feature f writes: adding α·W_dec[f] at every token changes ℓ_i by α Σ_t g_t·W_dec[f]
(steering), and taking the feature's own contribution a_tf·W_dec[f] away changes it by -Σ_t a_tf g_t·W_dec[f]
(ablation). The latter is attribution patching towards zero (Syed et al. 2023, arXiv 2310.10348; Marks et al.
2024, arXiv 2403.19647).
"""

import warnings

import numpy as np
import scipy.sparse
import torch

TOKENS_AT_ONCE = 4096  # of which products with the decoder are taken together


def steering(gradients: np.ndarray, sentence_offsets: np.ndarray, w_dec: torch.Tensor) -> np.ndarray:
    """Change of ℓ_i per unit of activation added at every token, nats, float32 [n, d_sae].

    gradients: [T, d_model]; sentence_offsets: [n + 1]; w_dec: [d_sae, d_model].
    """
    sums = np.add.reduceat(gradients, sentence_offsets[:-1], axis=0, dtype=np.float64)  # [n, d_model]
    return (torch.from_numpy(sums).to(w_dec) @ w_dec.T).float().cpu().numpy()


def token_attribution(
    activations: scipy.sparse.csr_matrix, gradients: np.ndarray, w_dec: torch.Tensor
) -> np.ndarray:
    """What each firing adds to ℓ_i to first order: a_tf g_t·W_dec[f] in nats, float32 [nnz].

    activations: CSR [T, d_sae], whose order of entries the result has; gradients: [T, d_model]. Only products
    of tokens with features that fire there are computed.
    """
    parts = []
    for start in range(0, activations.shape[0], TOKENS_AT_ONCE):
        rows = activations[start : start + TOKENS_AT_ONCE]
        pattern = csr_pattern(rows, w_dec)
        own = torch.from_numpy(gradients[start : start + TOKENS_AT_ONCE]).to(w_dec)  # [rows, d_model]
        products = torch.sparse.sampled_addmm(pattern, own, w_dec.T, beta=0).values()  # [rows' nnz]
        parts.append(products.float().cpu().numpy() * rows.data)
    return np.concatenate(parts)


def csr_pattern(rows: scipy.sparse.csr_matrix, like: torch.Tensor) -> torch.Tensor:
    """The places of the stored entries of `rows`, as zeros of the device and dtype of `like`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            torch.zeros(rows.nnz, dtype=like.dtype),
            size=rows.shape,
            device=like.device,
            check_invariants=False,
        )


def ablation(
    attribution: np.ndarray, activations: scipy.sparse.csr_matrix, sentence_offsets: np.ndarray
) -> scipy.sparse.csr_matrix:
    """Change of ℓ_i when a feature's contribution is taken away, nats, float32 CSR [n, d_sae].

    attribution: [nnz] of `token_attribution`. As sparse as the activations: a feature that does not fire in a
    sentence has nothing to take away.
    """
    n_tokens, n = activations.shape[0], len(sentence_offsets) - 1
    by_token = scipy.sparse.csr_matrix(
        (attribution.astype(np.float64), activations.indices, activations.indptr), shape=activations.shape
    )
    in_sentence = scipy.sparse.csr_matrix(
        (np.ones(n_tokens), np.arange(n_tokens), sentence_offsets),
        shape=(n, n_tokens),
    )
    summed = -(in_sentence @ by_token)
    summed.sort_indices()
    return summed.astype(np.float32)
