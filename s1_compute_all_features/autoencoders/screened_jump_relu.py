"""JumpReLU in float32 at nearly the speed of bfloat16: screen everything, compute only what may fire.

Of 16,384 features about a hundred fire at a token. A product in bfloat16 gives every pre-activation with a
bound on its error; features that the bound excludes do not fire, and only the others, the candidates, are
computed in float32.

The bound. Let z = x·w + b be the exact pre-activation and θ the threshold (at least 0). With a centre μ and a
scale s per dimension, x' = (x - μ)/s, w' = s w and b' = b + μ·w give z = x'·w' + b'. Let x̂ and ŵ be x' and w'
rounded to bfloat16. By Cauchy and Schwarz

    |x'·w' - x̂·ŵ| ≤ ‖x' - x̂‖ ‖w'‖ + ‖x̂‖ ‖w' - ŵ‖,

with the norms of what rounding really took, not of what it might. Centre and scale make these small where a
few dimensions carry most of the norm; s is a power of two, so that scaling rounds nothing.

What is computed is S = x̂·ŵ + A P + B Q + C R + O as one product of vectors that are EXTRA entries longer,
each extra entry rounded up, where

    A = ‖x' - x̂‖ + 2u ‖x'‖    P = ‖w'‖             what rounding x' took; 2u: the subtraction x - μ itself
    B = ‖x̂‖                   Q = ‖w' - ŵ‖ + γ ‖ŵ‖  what rounding w' took; γ: accumulating the product
    C = γ' ‖x‖                 R = ‖w‖              the rounding of float32's own x·w + b, in any order
    O = b' - θ in three parts of 8 bits each, what these leave out, and γ' |b|

u = 2⁻²⁴ is float32's unit roundoff, γ' = γ_{d+2} = (d+2)u / (1 - (d+2)u) (Higham 2002, *Accuracy and
Stability of Numerical Algorithms*, section 3.1), and γ the same for d + EXTRA additions with 2⁻²³ in place of
u, which also covers units that cut off instead of rounding. Products of two bfloat16 numbers are exact in
float32. Every norm carries a factor 1 + SLACK for its own rounding and for accumulating its term, which
suffices as long as γ < SLACK / 2, up to d = 30,000.

So if float32 finds z > θ, however it orders the sum, then S > 0 in exact arithmetic and, as rounding to
nearest keeps signs, the computed S is not negative. Testing against zero is why rounding the output,
otherwise the largest error of all (2⁻⁸ of z), costs nothing. Numbers so small that hardware may flush them to
zero are rounded away beforehand, counted among what rounding took, and FLOOR is added to every norm.

What is returned depends on μ and s only in that a chunk with too many candidates, or with entries beyond
LARGEST, is computed densely.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from autoencoders.csr_rows import CsrRows, positions, require_finite
from autoencoders.jump_relu import JumpReluEncoder

UNIT = 2.0**-24  # unit roundoff of float32
ACCUMULATION_UNIT = 2.0**-23  # of the additions inside a bfloat16 product, cut off or rounded
EXTRA = 8  # entries: A, B, C, four ones for O in three parts and its rest, and a zero to fill up
SLACK = 2.0**-7  # relative, of every term of the bound
FLOOR = 2.0**-50  # added to norms: far below any threshold, far above what flushing denormals could hide
LARGEST = 2.0**50  # of an entry: sums of products stay far from overflow
DENSE_SHARE = 1 / 16  # of candidates among all pairs of a chunk, from which computing all is faster


@dataclass(frozen=True)
class Conditioning:
    """Centre and scale of a layer's residual stream; any values give the same activations."""

    centre: torch.Tensor  # [d_in] float32
    scale: torch.Tensor  # [d_in] float32, powers of two

    @classmethod
    def fit(cls, chunks: Iterable[np.ndarray]) -> "Conditioning":
        """Fit to chunks `[k, d_in]` of the residual stream."""
        count, sums, squares = 0, 0.0, 0.0
        for chunk in chunks:
            wide = chunk.astype(np.float64)
            count += len(wide)
            sums, squares = sums + wide.sum(axis=0), squares + (wide * wide).sum(axis=0)
        centre = sums / count  # [d_in]
        spread = np.sqrt(np.maximum(squares / count - centre**2, 0))  # [d_in]
        exponent = np.round(np.log2(np.where(spread > 0, spread, 1.0))).clip(-40, 40)
        return cls(*(torch.from_numpy(values.astype(np.float32)) for values in (centre, np.exp2(exponent))))

    def to(self, device: torch.device) -> "Conditioning":
        return Conditioning(self.centre.to(device), self.scale.to(device))


def rounded_up(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to bfloat16, never down."""
    nearest = values.to(torch.bfloat16)
    above = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return torch.where(nearest.float() < values, above, nearest)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to bfloat16; what hardware might take for a denormal becomes zero."""
    nearest = values.to(torch.bfloat16)
    return torch.where(nearest.abs() < torch.finfo(torch.bfloat16).tiny, torch.zeros_like(nearest), nearest)


def in_three_parts(values: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Three bfloat16 arrays that add up to float64 `values`, and the size of what they leave out."""
    parts = []
    for _ in range(3):
        part = rounded(values.float())
        parts.append(part)
        values = values - part.double()
    return parts, values.abs()


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row [k, d] -> [k] float32, from above."""
    return torch.linalg.vector_norm(rows, dim=1) * (1 + SLACK) + FLOOR


@dataclass(frozen=True)
class ScreenedJumpRelu:
    """A JumpReLU SAE, feature by feature, with the weights of its screen."""

    weights: torch.Tensor  # [d_sae, d_in] float32, W_enc transposed: a feature's weights lie together
    b_enc: torch.Tensor  # [d_sae] float32
    threshold: torch.Tensor  # [d_sae] float32, at least 0
    conditioning: Conditioning
    screen_rows: torch.Tensor | None  # [d_sae, d_in + EXTRA] bfloat16; None where bounds are not finite

    @classmethod
    def of(cls, encoder: JumpReluEncoder, conditioning: Conditioning) -> "ScreenedJumpRelu":
        """Prepare a float32 SAE on its device."""
        weights = encoder.w_enc.T.contiguous()
        threshold = encoder.threshold.clamp(min=0)
        conditioned = weights * conditioning.scale  # exact: powers of two
        coarse = rounded(conditioned)
        gamma, gamma_32 = gammas(weights.shape[1])
        size = norms(weights)
        bias = encoder.b_enc.double()
        offset = bias + weights.double() @ conditioning.centre.double() - threshold.double()
        parts, left_out = in_three_parts(offset)
        rest = left_out + gamma_32 * bias.abs() + 4 * gamma * offset.abs()
        # The last term is the rounding of b' - θ itself, in float64.
        rest += 2.0**-40 * (float(conditioning.centre.norm()) * size + threshold)
        rest = rest.float() * (1 + SLACK) + FLOOR
        columns = [
            rounded_up(norms(conditioned)),
            rounded_up(norms(conditioned.sub_(coarse)) + gamma * norms(coarse.float())),
            rounded_up(size),
            *parts,
            rounded_up(rest),
            torch.zeros_like(parts[0]),  # keeps the width a multiple of eight
        ]
        screen_rows = torch.cat([coarse, torch.stack(columns, dim=1)], dim=1)
        if not (screen_rows.abs() <= LARGEST).all():
            screen_rows = None  # a bound that overflows excludes nothing
        return cls(weights, encoder.b_enc, threshold, conditioning, screen_rows)

    @property
    def d_sae(self) -> int:
        return len(self.threshold)

    def screen_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens' side of the screen, bfloat16 [chunk, d_in + EXTRA], of x [chunk, d_in] float32."""
        conditioned = (x - self.conditioning.centre) / self.conditioning.scale
        coarse = rounded(conditioned)
        wide = coarse.float()
        gamma_32 = gammas(x.shape[1])[1]
        bounds = [
            norms(conditioned - wide) + 2 * UNIT * norms(conditioned),
            norms(wide),
            gamma_32 * norms(x),
        ]
        ones = torch.ones(len(x), 4, dtype=torch.bfloat16, device=x.device)
        columns = torch.stack([rounded_up(bound) for bound in bounds], dim=1)
        return torch.cat([coarse, columns, ones, torch.zeros_like(ones[:, :1])], dim=1)

    def candidates(self, x: torch.Tensor, memory: list[torch.Tensor]) -> torch.Tensor | None:
        """Flat positions in [d_sae, chunk] of what may fire, int64 ascending; None where it may be too much.

        memory: empty at first; what a call leaves in it, the next one computes in.
        """
        tokens = self.screen_tokens(x)
        if self.screen_rows is None or not (tokens.abs() <= LARGEST).all():
            return None
        shape = (self.d_sae, len(x))
        if not memory or memory[0].shape != shape:
            memory[:] = [tokens.new_empty(shape)]
        torch.mm(self.screen_rows, tokens.T, out=memory[0])
        return not_negative(memory[0])

    def rows(self, x: torch.Tensor, memory: list[torch.Tensor]) -> CsrRows:
        """Activations of x [chunk, d_in] float32.

        Where the screen excludes too little, or a bound is not finite, the whole chunk is computed densely.

        Raises:
            ValueError: an activation is not finite.
        """
        found = self.candidates(x, memory)
        if found is None or len(found) > DENSE_SHARE * self.d_sae * len(x):
            return JumpReluEncoder(self.weights.T, self.b_enc, self.threshold).rows(x, [])
        feature, token = found // len(x), found % len(x)
        z = self.pre_activations(x, feature, token)
        require_finite(z)
        fires = z > self.threshold[feature]
        feature, token, z = feature[fires], token[fires], z[fires]
        order = torch.argsort(token, stable=True)  # from feature by feature to token by token
        lengths = torch.bincount(token, minlength=len(x))
        return lengths.cpu().numpy(), feature[order].int().cpu().numpy(), z[order].cpu().numpy()

    def pre_activations(self, x: torch.Tensor, feature: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Float32 x·w + b of the pairs (feature, token) [k], ordered by feature."""
        lengths = torch.bincount(feature, minlength=self.d_sae)
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])  # [d_sae + 1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            pattern = torch.sparse_csr_tensor(
                starts, token, x.new_zeros(len(token)), size=(self.d_sae, len(x)), check_invariants=False
            )
        return torch.sparse.sampled_addmm(pattern, self.weights, x.T, beta=0).values() + self.b_enc[feature]


def gammas(d_in: int) -> tuple[float, float]:
    """γ of accumulating a screen's product, γ' of a float32 pre-activation; Higham 2002, lemma 3.1."""
    of_screen, of_float32 = (d_in + EXTRA) * ACCUMULATION_UNIT, (d_in + 2) * UNIT
    return of_screen / (1 - of_screen), of_float32 / (1 - of_float32)


def not_negative(values: torch.Tensor) -> torch.Tensor:
    """Flat positions, int64 ascending, of the entries of a bfloat16 array whose sign bit is not set."""
    return positions(values.view(torch.int16) >= 0)
