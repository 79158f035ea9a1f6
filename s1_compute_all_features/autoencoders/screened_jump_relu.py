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

A vector with an entry beyond LARGEST, or one that is not a number, excludes nothing: its side of the screen
is zero but for ones where the other side has ones, so S is at least 1. All else stays far from overflow, in
the screen as in float32, so an activation that is not finite is always a candidate.

What is returned depends on μ and s only in that tokens with too many candidates, where a chunk has too many,
are computed densely, in whose sums the order is another. On CUDA the product must not be reduced in bfloat16;
`ComputeOptions.prepare` forbids it.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from autoencoders.csr_rows import CsrRows, positions, require_finite
from autoencoders.encoding import Encoder
from autoencoders.jump_relu import JumpReluEncoder

UNIT = 2.0**-24  # unit roundoff of float32
ACCUMULATION_UNIT = 2.0**-23  # of the additions inside a bfloat16 product, cut off or rounded
EXTRA = 8  # entries: A, B, C, four ones for O in three parts and its rest, and a zero where there is a bound
SLACK = 2.0**-7  # relative, of every term of the bound
FLOOR = 2.0**-50  # added to norms: far below any threshold, far above what flushing denormals could hide
SMALLEST = 2.0**-126  # what is not above may be taken for zero
LARGEST = 2.0**50  # of an entry: sums of products stay far from overflow
DENSE_SHARE = 1 / 16  # of candidates among pairs of features and tokens, from which computing all is faster
BLOCK_ROWS = 512  # vectors of which one side is made at a time on a CPU, so that they stay in its cache

Firing = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""feature [k] int64, token [k] int64, value [k] float32."""


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
    return torch.nn.functional.hardshrink(values, SMALLEST).to(torch.bfloat16)


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


def feature_side(
    weights: torch.Tensor, b_enc: torch.Tensor, threshold: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    """ŵ, P, Q, R, the parts of O, and a one: bfloat16 [k, d_in + EXTRA], of weights [k, d_in] float32."""
    conditioned = weights * conditioning.scale  # exact: powers of two
    coarse = rounded(conditioned)
    gamma, gamma_32 = gammas(weights.shape[1])
    size = norms(weights)
    bias = b_enc.double()
    offset = bias + weights.double() @ conditioning.centre.double() - threshold.double()
    parts, left_out = in_three_parts(offset)
    rest = left_out + gamma_32 * bias.abs() + 4 * gamma * offset.abs()
    # The last term is the rounding of b' - θ itself, in float64.
    rest += 2.0**-40 * (conditioning.centre.norm() * size + threshold)
    rest = rest.float() * (1 + SLACK) + FLOOR
    columns = [
        rounded_up(norms(conditioned)),
        rounded_up(norms(conditioned.sub_(coarse)) + gamma * norms(coarse.float())),
        rounded_up(size),
        *parts,
        rounded_up(rest),
        torch.ones_like(parts[0]),
    ]
    return bounded(torch.cat([coarse, torch.stack(columns, dim=1)], dim=1), ones=2)


def token_side(x: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """x̂, A, B, C, four ones, and a zero: bfloat16 [k, d_in + EXTRA], of x [k, d_in] float32."""
    conditioned = (x - conditioning.centre) / conditioning.scale
    coarse = rounded(conditioned)
    wide = coarse.float()
    gamma_32 = gammas(x.shape[1])[1]
    size = norms(conditioned)
    bounds = [norms(conditioned.sub_(wide)) + 2 * UNIT * size, norms(wide), gamma_32 * norms(x)]
    columns = [*map(rounded_up, bounds), *torch.ones(4, len(x), dtype=torch.bfloat16, device=x.device)]
    columns.append(torch.zeros_like(columns[0]))
    return bounded(torch.cat([coarse, torch.stack(columns, dim=1)], dim=1), ones=1)


def bounded(side: torch.Tensor, ones: int) -> torch.Tensor:
    """Make rows of a side that have no bound zero, but for ones in their last entries."""
    without = ~(side.abs().amax(dim=1, keepdim=True) <= LARGEST)  # [k, 1]
    side.masked_fill_(without, 0)
    side[:, -ones:].masked_fill_(without, 1)
    return side


def blocks(n_rows: int, device: torch.device) -> Iterator[slice]:
    at_a_time = BLOCK_ROWS if device.type == "cpu" else n_rows
    return (slice(start, start + at_a_time) for start in range(0, n_rows, at_a_time))


@dataclass
class ScreenedJumpRelu:
    """A JumpReLU SAE, feature by feature, with the weights of its screen."""

    weights: torch.Tensor  # [d_sae, d_in] float32, W_enc transposed: a feature's weights lie together
    b_enc: torch.Tensor  # [d_sae] float32
    threshold: torch.Tensor  # [d_sae] float32, at least 0
    conditioning: Conditioning
    screen: torch.Tensor  # [d_sae, d_in + EXTRA] bfloat16, the features' side
    n_candidates: int = 0  # of all tokens so far

    @classmethod
    def of(cls, encoder: JumpReluEncoder, conditioning: Conditioning) -> "ScreenedJumpRelu":
        """Prepare a float32 SAE on its device."""
        weights, b_enc = encoder.w_enc.T.contiguous(), encoder.b_enc
        threshold = encoder.threshold.clamp(min=0)
        d_sae, d_in = weights.shape
        screen = weights.new_empty(d_sae, d_in + EXTRA, dtype=torch.bfloat16)
        for block in blocks(d_sae, weights.device):
            screen[block] = feature_side(weights[block], b_enc[block], threshold[block], conditioning)
        return cls(weights, b_enc, threshold, conditioning, screen)

    @property
    def d_sae(self) -> int:
        return len(self.threshold)

    def may_fire(self, x: torch.Tensor, memory: list[torch.Tensor]) -> torch.Tensor:
        """Bool [d_sae, chunk] of x [chunk, d_in] float32: the candidates.

        memory: empty at first; what a call leaves in it, the next one computes in.
        """
        tokens = torch.cat([token_side(x[block], self.conditioning) for block in blocks(len(x), x.device)])
        size = self.d_sae * len(x)
        if not memory or len(memory[0]) < size:
            memory[:] = [self.screen.new_empty(size), self.screen.new_empty(size, dtype=torch.bool)]
        sums, found = (array[:size].view(self.d_sae, len(x)) for array in memory)
        torch.mm(self.screen, tokens.T, out=sums)
        return torch.ge(sums.view(torch.int16), 0, out=found)  # the sign bit is not set

    def rows(self, x: torch.Tensor, memory: list[torch.Tensor]) -> CsrRows:
        """Activations of x [chunk, d_in] float32.

        Where the screen excludes too little, the tokens with too many candidates are computed densely.

        Raises:
            ValueError: an activation is not finite.
        """
        may_fire = self.may_fire(x, memory)
        candidates = positions(may_fire)
        n_candidates = len(candidates)
        crowded = None
        if n_candidates > DENSE_SHARE * may_fire.numel():
            crowded = may_fire.sum(dim=0) > DENSE_SHARE * self.d_sae  # [chunk]
            candidates = positions(may_fire.masked_fill_(crowded, False))
        feature, token, z = self.firing(x, candidates)
        if crowded is not None:
            others = self.firing_densely(x, crowded)
            feature, token, z = (torch.cat(both) for both in zip((feature, token, z), others))
        self.n_candidates += n_candidates
        order = torch.argsort(token, stable=True)  # features ascend within a token
        lengths = torch.bincount(token, minlength=len(x))
        return lengths.cpu().numpy(), feature[order].int().cpu().numpy(), z[order].cpu().numpy()

    def firing(self, x: torch.Tensor, candidates: torch.Tensor) -> Firing:
        """What fires of the candidates, flat positions in [d_sae, chunk], ascending."""
        feature, token = candidates // len(x), candidates % len(x)
        z = self.pre_activations(x, feature, token)
        require_finite(z)
        fires = positions(z > self.threshold[feature])
        return feature[fires], token[fires], z[fires]

    def firing_densely(self, x: torch.Tensor, chosen: torch.Tensor) -> Firing:
        """What fires at the chosen tokens, [chunk] bool."""
        tokens = positions(chosen)
        z, fires = JumpReluEncoder(self.weights.T, self.b_enc, self.threshold).activations(x[tokens], [])
        require_finite(z)
        found = positions(fires)
        return found % self.d_sae, tokens[found // self.d_sae], z.flatten()[found]

    def pre_activations(self, x: torch.Tensor, feature: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Float32 x·w + b of the pairs (feature, token) [k], ordered by feature."""
        starts = torch.searchsorted(feature, torch.arange(self.d_sae + 1, device=x.device))  # [d_sae + 1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            pattern = torch.sparse_csr_tensor(
                starts, token, x.new_zeros(len(token)), size=(self.d_sae, len(x)), check_invariants=False
            )
        return torch.sparse.sampled_addmm(pattern, self.weights, x.T, beta=0).values() + self.b_enc[feature]


def screened(encoder: Encoder, conditioning: Callable[[], Conditioning]) -> Encoder:
    """Return a float32 encoder with a screen before it, where it is of a kind that can have one."""
    return ScreenedJumpRelu.of(encoder, conditioning()) if isinstance(encoder, JumpReluEncoder) else encoder


def is_faster_on(device: torch.device) -> bool:
    """Whether the screen was measured to be faster than the dense product on such devices.

    By what a device has, never by a timing, so that the same machine gives the same bytes. CPUs with AMX have
    AVX512-BF16 as well. On GPUs it has not been measured.
    """
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def gammas(d_in: int) -> tuple[float, float]:
    """γ of accumulating a screen's product, γ' of a float32 pre-activation; Higham 2002, lemma 3.1."""
    of_screen, of_float32 = (d_in + EXTRA) * ACCUMULATION_UNIT, (d_in + 2) * UNIT
    return of_screen / (1 - of_screen), of_float32 / (1 - of_float32)
