"""Where decentralized methods end without noise: how far from the optimum, and why.

Node `i` has the least squares loss `f_i` of data of its own. With the full gradients of these, at a
constant learning rate, a method comes to rest at a fixed point that is not the optimum of their
mean. All methods start at that optimum, so what is left at the end is their bias.
"""

from typing import NamedTuple

import numpy as np

from keras_sharp.training import DSGD, AWCDmSGD, DADmSGD, DecentLaM, DmSGD, PmSGD, QGDmSGD, topology
from keras_sharp.training.simulation import descend

NODES, ROWS, DIMENSION = 8, 50, 10
RATE, STEPS = 1e-3, 8000
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95)
RING = topology.ring(NODES)
METHODS = {
    "PmSGD": PmSGD(NODES),
    "DSGD": DSGD(RING),
    "DmSGD": DmSGD(RING),
    "DA-DmSGD": DADmSGD(RING),
    "AWC-DmSGD": AWCDmSGD(RING),
    "QG-DmSGD": QGDmSGD(RING),
    "DecentLaM": DecentLaM(RING),
}


class Bias(NamedTuple):
    """What is left at the end.

    Attributes:
        method: Name of the method.
        momentum: `beta`.
        measured: Mean over the nodes of `|x_i - x*|^2` after the steps.
        fixed_point: The same of the point where the method's equations rest.
    """

    method: str
    momentum: float
    measured: float
    fixed_point: float


class LeastSquares:
    """`f_i(x) = |A_i x - b_i|^2 / (2 rows)` on every node, where each has its own optimum.

    Attributes:
        hessians: `(nodes, n, n)`.
        linear: `(nodes, n)`: the gradients are `hessians x - linear`.
        optimum: `(n,)`, of the mean of all `f_i`.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        a, targets = rng.normal(size=(NODES, ROWS, DIMENSION)), rng.normal(size=(NODES, DIMENSION))
        b = (a @ targets[..., None])[..., 0] + rng.normal(size=(NODES, ROWS))
        self.hessians = a.mT @ a / ROWS
        self.linear = (a.mT @ b[..., None])[..., 0] / ROWS
        self.optimum = np.linalg.solve(self.hessians.sum(0), self.linear.sum(0))

    def gradients(self, x: np.ndarray) -> np.ndarray:
        """Returns the gradient of each node at its own weights, `(nodes, n)`."""
        return (self.hessians @ x[..., None])[..., 0] - self.linear

    def bias(self, x: np.ndarray) -> float:
        """Returns the mean over the nodes of the squared distance to the optimum."""
        return float(((x - self.optimum) ** 2).sum(1).mean())

    def fixed_point(self, method: str, momentum: float) -> np.ndarray:
        """Solves `(I - W) x + gamma M g(x) = 0`, in which `W` and `M` are what makes a method.

        A method rests where weights and momentum stay what they are. DmSGD then has the momentum
        `g / (1 - beta)`, DA-DmSGD one that is mixed in each step, and DecentLaM and QG-DmSGD none:
        they rest where DSGD does.
        """
        w = METHODS[method].topology.matrix(0)
        identity, left = np.eye(NODES), 1 - momentum
        mixed = {
            "PmSGD": w / left,
            "DmSGD": w / left,
            "DA-DmSGD": w @ np.linalg.solve(identity - momentum * w, w),
            "AWC-DmSGD": identity / left,
        }.get(method, w)
        size = NODES * DIMENSION
        pull = np.kron(identity - w, np.eye(DIMENSION))
        push = RATE * np.einsum("ij,jab->iajb", mixed, self.hessians).reshape(size, size)
        right = RATE * (mixed @ self.linear).ravel()
        return np.linalg.solve(pull + push, right).reshape(NODES, DIMENSION)


def biases(steps: int, seed: int) -> list[Bias]:
    """Returns the bias of every method with each momentum; DSGD has none."""
    problem, found = LeastSquares(seed), []
    start, rates = np.tile(problem.optimum, (NODES, 1)), np.full(steps, RATE)
    for name, method in METHODS.items():
        for momentum in MOMENTA[:1] if name == "DSGD" else MOMENTA:
            end = descend(method, problem.gradients, start, rates, momentum=momentum)
            rest = problem.fixed_point(name, momentum)
            found.append(Bias(name, momentum, problem.bias(end), problem.bias(rest)))
    return found


def formulas(momentum: float) -> dict[str, float]:
    """Returns the bias over that of DSGD by the paper's analysis, to leading order in the rate."""
    return {"DmSGD": 1 / (1 - momentum) ** 2, "DecentLaM": 1.0}
