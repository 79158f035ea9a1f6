"""The estimators of our own, in scikit-learn's manner: what model files may hold besides scikit-learn's."""

import warnings

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression


def mean_difference(X: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Unit vector [d] from the mean of the rows `low` to the mean of the rows `high` (bool [n] each)."""
    direction = X[high].mean(axis=0) - X[low].mean(axis=0)
    norm = np.linalg.norm(direction)
    return direction / norm if norm > 0 else direction


class DiffMeansClassifier(ClassifierMixin, BaseEstimator):
    """Projects on the difference between the means of top and bottom class, then separates on that line.

    The direction is DiffMean of AxBench (arXiv 2501.17148); classes are told apart along it by a
    one-dimensional linear discriminant.
    """

    def fit(self, X: np.ndarray, y: np.ndarray) -> "DiffMeansClassifier":
        self.classes_ = np.unique(y)
        self.direction_ = mean_difference(X, y == self.classes_[-1], y == self.classes_[0])  # [d]
        self.line_ = LinearDiscriminantAnalysis().fit((X @ self.direction_)[:, None], y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.line_.predict_proba((X @ self.direction_)[:, None])

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class DiffMeansRegressor(RegressorMixin, BaseEstimator):
    """Projects on the difference between the means above and up to the median target, then fits a line."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "DiffMeansRegressor":
        # Where more than half of the targets are zero the median is zero, so this is firing against silent.
        high = y > np.median(y)
        self.direction_ = mean_difference(X, high, ~high)  # [d]
        self.line_ = LinearRegression().fit((X @ self.direction_)[:, None], y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.line_.predict((X @ self.direction_)[:, None])


class OrdinalLogistic(ClassifierMixin, BaseEstimator):
    """Cumulative-link (proportional odds) model: P(y > k) = sigmoid(x·w - threshold_k), McCullagh 1980.

    Minimises the mean log-loss plus |w|² / (2 C n), so C means what it means in LogisticRegression.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 1000):
        self.C = C
        self.max_iter = max_iter

    def fit(self, X: np.ndarray, y: np.ndarray) -> "OrdinalLogistic":
        X = np.asarray(X, np.float64)
        self.classes_, codes = np.unique(y, return_inverse=True)
        n_thresholds = len(self.classes_) - 1
        above = np.array([(codes > k).mean() for k in range(n_thresholds)])
        first = np.log((1 - above) / above)  # thresholds that fit the class shares with w = 0, rising
        start = np.concatenate([np.zeros(X.shape[1]), first[:1], np.log(np.diff(first))])
        fitted = minimize(
            self._loss,
            start,
            args=(X, codes),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter},
        )
        if not fitted.success:
            warnings.warn(f"ordinal did not converge: {fitted.message}", ConvergenceWarning, stacklevel=2)
        self.coef_ = fitted.x[: X.shape[1]]  # [d]
        self.thresholds_ = self._thresholds(fitted.x[X.shape[1] :])  # [K - 1]
        return self

    @staticmethod
    def _thresholds(raw: np.ndarray) -> np.ndarray:
        return np.cumsum(np.concatenate([raw[:1], np.exp(raw[1:])]))

    def _loss(self, parameters: np.ndarray, X: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
        """Penalised mean log-loss, and its gradient in w, the first threshold and the log gaps."""
        n, d = X.shape
        w, raw = parameters[:d], parameters[d:]
        thresholds = self._thresholds(raw)
        edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
        score = X @ w  # [n]
        upper, lower = edges[codes + 1] - score, edges[codes] - score  # [n] each
        # log(s(upper) - s(lower)) = log s(upper) + log s(-lower) + log(1 - exp(lower - upper))
        gap = np.clip(upper - lower, 1e-12, None)
        log_likelihood = log_expit(upper) + log_expit(-lower) + np.log(-np.expm1(-gap))
        bridge = np.exp(-gap) / -np.expm1(-gap)
        d_upper = expit(-upper) + bridge  # derivative of the log-likelihood, [n]
        d_lower = -expit(lower) - bridge
        penalty = 1 / (self.C * n)
        gradient_w = (X.T @ (d_upper + d_lower)) / n + penalty * w
        per_threshold = np.array(
            [d_upper[codes == k].sum() + d_lower[codes == k + 1].sum() for k in range(len(thresholds))]
        )
        tail_sums = np.cumsum(per_threshold[::-1])[::-1]  # raising one gap raises all later thresholds
        gradient_raw = -tail_sums * np.concatenate([[1.0], np.exp(raw[1:])]) / n
        return -log_likelihood.mean() + 0.5 * penalty * w @ w, np.concatenate([gradient_w, gradient_raw])

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        above = expit((np.asarray(X, np.float64) @ self.coef_)[:, None] - self.thresholds_)  # [n, K - 1]
        edges = np.hstack([np.ones((len(above), 1)), above, np.zeros((len(above), 1))])
        return np.clip(edges[:, :-1] - edges[:, 1:], 0, 1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class _MLP(BaseEstimator):
    """One hidden ReLU layer with dropout, trained full-batch by AdamW; its weights are NumPy arrays."""

    def __init__(
        self,
        hidden: int = 64,
        epochs: int = 200,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        dropout: float = 0.5,
        seed: int = 0,
    ):
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.seed = seed

    def _train(self, X: np.ndarray, targets: np.ndarray, n_outputs: int, loss_name: str) -> None:
        import torch  # a second or two to import; only this model needs it

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            inputs, wanted = torch.tensor(X, dtype=torch.float32), torch.as_tensor(targets)
            network = torch.nn.Sequential(
                torch.nn.Linear(X.shape[1], self.hidden),
                torch.nn.ReLU(),
                torch.nn.Dropout(self.dropout),
                torch.nn.Linear(self.hidden, n_outputs),
            )
            optimizer = torch.optim.AdamW(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            loss_function = getattr(torch.nn.functional, loss_name)
            for _ in range(self.epochs):
                optimizer.zero_grad()
                loss_function(network(inputs), wanted).backward()
                optimizer.step()
        first, last = network[0], network[3]
        self.weights_in_, self.bias_in_ = (p.detach().numpy().copy() for p in (first.weight, first.bias))
        self.weights_out_, self.bias_out_ = (p.detach().numpy().copy() for p in (last.weight, last.bias))

    def _forward(self, X: np.ndarray) -> np.ndarray:
        hidden = np.maximum(np.asarray(X, np.float32) @ self.weights_in_.T + self.bias_in_, 0)  # [n, hidden]
        return (hidden @ self.weights_out_.T + self.bias_out_).astype(np.float64)  # [n, n_outputs]


class MLPClassifier(ClassifierMixin, _MLP):
    """A small multi-layer perceptron with softmax outputs."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "MLPClassifier":
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._train(X, codes.astype(np.int64), len(self.classes_), "cross_entropy")
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        logits = self._forward(X)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self._forward(X).argmax(axis=1)]


class MLPRegressor(RegressorMixin, _MLP):
    """A small multi-layer perceptron on the standardised target."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "MLPRegressor":
        self.mean_, self.scale_ = float(np.mean(y)), float(np.std(y))
        self._train(X, ((y - self.mean_) / self.scale_).astype(np.float32)[:, None], 1, "mse_loss")
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self._forward(X)[:, 0] * self.scale_ + self.mean_
