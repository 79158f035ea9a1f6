"""sae-lens' BatchTopK SAE with a training step for a CPU: it multiplies active features only.

Of `[batch, d_sae]` feature activations about one in a hundred is not zero. sae-lens makes, differentiates and
counts all of them; here they are a sparse matrix from the selection on, in the forward and the backward pass.
"""

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

SAMPLE_EVERY = 61  # a prime, so that a sample takes all features and rows in turn
MARGIN = 1.25  # candidates to aim at for each value that is kept


class SparseBatchTopKTrainingSAE(BatchTopKTrainingSAE):
    """Trains as its base does with `rescale_acts_by_decoder_norm` and `apply_b_dec_to_input`.

    Features compete by pre-activation times decoder norm. What wins writes its pre-activation along its
    decoder row, since the norm is divided out again: the norm takes part in the selection alone.
    """

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x, dead = step_input.sae_in, step_input.dead_neuron_mask
        scores = self.scores(x)
        active, lowest = places_of_largest(scores, int(self.cfg.k * len(x)))
        self.update_topk_threshold(lowest.float())
        sae_out, acts = SparseReconstruction.apply(x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, active)
        losses = {"mse_loss": (sae_out - x).pow(2).sum(dim=1).mean()}
        if dead is not None and dead.any():
            losses["auxiliary_reconstruction_loss"] = self.dead_feature_loss(x, (x - sae_out).detach(), dead)
        return TrainStepOutput(
            sae_in=x,
            sae_out=sae_out,
            feature_acts=acts.to_sparse_coo(),
            hidden_pre=acts,
            loss=sum(losses.values()),
            losses=losses,
        )

    @torch.no_grad()
    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return by what features compete, `[n, d_sae]` bfloat16; their activations are float32."""
        norm = self.W_dec.norm(dim=1)
        centred, weights, bias = x - self.b_dec, self.W_enc * norm, self.b_enc * norm
        return torch.addmm(bias.bfloat16(), centred.bfloat16(), weights.bfloat16())

    def dead_feature_loss(self, x: torch.Tensor, residual: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
        """Return sae-lens' auxiliary loss: dead features reconstruct what the others leave (no bias).

        Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, appendix A.2.
        """
        columns = dead.nonzero().squeeze(1)
        pre = (x - self.b_dec) @ self.W_enc[:, columns] + self.b_enc[columns]
        limit = x.shape[1] // 2
        if len(columns) > limit:
            scores = pre.detach() * self.W_dec[columns].detach().norm(dim=1)
            kept = scores.topk(limit, dim=1, sorted=False).indices
            pre = torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept))
        error = (pre @ self.W_dec[columns] - residual).pow(2).sum(dim=1).mean()
        return self.cfg.aux_loss_coefficient * min(len(columns) / limit, 1) * error


def places_of_largest(scores: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the n largest scores lie, if positive, as a sparse CSR matrix of ones, and the least."""
    flat, (n_rows, n_columns) = scores.flatten(), scores.shape
    places = largest(flat, n)
    places = places[flat[places] > 0].sort().values
    row_starts = torch.searchsorted(places, torch.arange(n_rows + 1) * n_columns)
    ones = torch.ones(len(places))
    active = torch.sparse_csr_tensor(row_starts, places % n_columns, ones, size=scores.shape)
    return active, flat[places].min()


def largest(flat: torch.Tensor, n: int) -> torch.Tensor:
    """Return the places of the n largest values.

    A sample says above which value about a quarter more than n lie, and only those are sorted; where these
    are too few, all are.
    """
    sample = flat[::SAMPLE_EVERY]
    n_above = min(len(sample), int(MARGIN * n / SAMPLE_EVERY) + 1)
    candidates = (flat >= sample.topk(n_above).values[-1]).nonzero().squeeze(1)
    if len(candidates) < n:
        return flat.topk(n, sorted=False).indices
    return candidates[flat[candidates].topk(n, sorted=False).indices]


class SparseReconstruction(torch.autograd.Function):
    """`f @ W_dec + b_dec` and f, where f = (x - b_dec) @ W_enc + b_enc at the places of `active`, else 0.

    x: [n, d_in]; active and f: sparse CSR [n, d_sae]. Only the reconstruction can be differentiated, and
    only by the weights.
    """

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, W_dec, b_dec, active):
        centred, columns = x - b_dec, active.col_indices()
        values = at_places(active, centred, W_enc).values() + b_enc[columns]
        f = torch.sparse_csr_tensor(active.crow_indices(), columns, values, size=active.shape)
        ctx.save_for_backward(centred, W_enc, W_dec, f)
        ctx.mark_non_differentiable(f)
        return f @ W_dec + b_dec, f

    @staticmethod
    def backward(ctx, grad_out, _):
        centred, W_enc, W_dec, f = ctx.saved_tensors
        grad_f = at_places(f, grad_out.contiguous(), W_dec.T)
        grad_b_enc = torch.zeros(f.shape[1]).index_add_(0, grad_f.col_indices(), grad_f.values())
        grad_W_enc = (transposed(grad_f) @ centred).T
        grad_W_dec = transposed(f) @ grad_out
        grad_b_dec = grad_out.sum(dim=0) - W_enc @ grad_b_enc
        return None, grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, None


def at_places(places: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `left @ right` where the sparse CSR matrix `places` has values, sparse as it is."""
    return torch.sparse.sampled_addmm(places, left, right, beta=0.0)


def transposed(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.transpose(0, 1).to_sparse_csr()
