"""Whether a noisy curve has passed its minimum, by a Gaussian process."""

import warnings

import numpy as np

GRID = np.linspace(0.0, 1.0, 500)
LENGTH_SCALE = 0.2
JITTER = 1e-4  # added to the variance of each difference
# Where the fit of output scale and noise begins, and the least noise, as in the authors' code.
OUTPUT_SCALE, NOISE, LEAST_NOISE = np.log(2.0), 1e-3, 1e-4
FITTED, CONDITIONED = 100, 500  # points at most


def passed_minimum(
    losses: np.ndarray, *, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fits a Gaussian process to a curve, and asks whether its last point is above its minimum.

    Its inputs are `index / len(losses)`, its kernel is `o exp(-(x - x')^2 / (2 * 0.2^2))`, with
    output scale `o` and noise of the largest marginal likelihood on a random subset of the points.
    Each draw conditions it on another random subset, and looks at 500 points between 0 and 1.

    Args:
        losses: `(n,)`; those that are not finite are left out, and keep their places.
        draws: Number of random subsets.
        seed: Decides the subsets, together with `n`.

    Returns:
        `(draws,)` probabilities, the greatest of `probabilities_below_last`, and `(draws,)` places
        of the minima of the means, in [0, 1]; None if no loss is finite.
    """
    # Not above: the package is used without it by most, and the import takes a while.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from threadpoolctl import threadpool_limits

    losses = np.asarray(losses, np.float64)
    finite = np.flatnonzero(np.isfinite(losses))
    if not len(finite):
        return None
    x, y = finite[:, None] / len(losses), losses[finite]
    # The process has mean zero. A loss that explodes is scaled down, or its covariances would be
    # too large to invert beside the noise.
    y = y - y.mean()
    y /= max(1.0, y.std())
    generator = np.random.default_rng([seed, len(losses)])

    def subset(size):
        return np.sort(generator.choice(len(y), min(size, len(y)), replace=False))

    shape = RBF(LENGTH_SCALE, "fixed")
    kernel = ConstantKernel(OUTPUT_SCALE) * shape + WhiteKernel(NOISE, (LEAST_NOISE, 1e5))
    chosen = subset(FITTED)
    # Matrices this small gain nothing from threads, which lose ten times as much on a busy machine.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # That the noise is at its bound is what a smooth curve should give.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianProcessRegressor(kernel).fit(x[chosen], y[chosen]).kernel_
        probabilities, places = [], []
        for _ in range(draws):
            chosen = subset(CONDITIONED)
            # The noise beside the kernel, not in it: what is asked about is the curve without it.
            process = GaussianProcessRegressor(
                fitted.k1, alpha=fitted.k2.noise_level, optimizer=None
            ).fit(x[chosen], y[chosen])
            mean, covariance = process.predict(GRID[:, None], return_cov=True)
            probabilities.append(probabilities_below_last(mean, covariance).max())
            places.append(GRID[mean.argmin()])
    return np.array(probabilities), np.array(places)


def probabilities_below_last(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns `P(f_i < f_k)` for each point `i` before the last, `k`, of a Gaussian vector.

    It is `Phi((m_k - m_i) / sqrt(K_ii + K_kk - 2 K_ik + 1e-4))`.

    Args:
        mean: `(k + 1,)`.
        covariance: `(k + 1, k + 1)`.

    Returns:
        `(k,)`.
    """
    from scipy.special import ndtr

    variance = np.diag(covariance) + covariance[-1, -1] - 2 * covariance[-1] + JITTER
    # Rounding may leave a variance of a difference a little below zero.
    return ndtr((mean[-1] - mean) / np.sqrt(np.maximum(variance, JITTER)))[:-1]
