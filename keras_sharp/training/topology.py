"""Who averages with whom, and with which weights."""

import dataclasses

import numpy as np

from keras_sharp.arguments import integer


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """Mixing matrices of a network of nodes, one for each step of a period.

    In step `k` node `i` replaces its vector `z_i` by `sum_j W_k[i, j] z_j`. Every matrix has rows
    and columns that sum to 1, so the mean over the nodes stays what it is.

    The functions of this module make the usual ones. Their weights are those of Metropolis,
    `W[i, j] = 1 / max(d_i, d_j)` for neighbours, where `d_i` counts node `i` and its neighbours;
    the node itself gets the rest. Where all have equally many neighbours these are uniform, as are
    those of directed graphs.

    Args:
        name: For messages and plots.
        matrices: `(period, nodes, nodes)`, repeated after the last.

    Raises:
        ValueError: If a matrix has negative entries, or rows or columns that don't sum to 1.

    Example:
    ```python
    ring = keras_sharp.training.topology.ring(8)
    ring.spectral_gap  # 0.195
    ```

    References:
        - [Ying et al., 2021](https://arxiv.org/abs/2110.13363), on exponential graphs
    """

    name: str
    matrices: np.ndarray

    def __post_init__(self):
        matrices = np.array(self.matrices, np.float64)
        if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or not matrices.size:
            raise ValueError(
                "`matrices` must have the shape (period, nodes, nodes). "
                f"Received: shape {matrices.shape}"
            )
        sums = np.concatenate([matrices.sum(1), matrices.sum(2)])
        if not np.allclose(sums, 1, rtol=0, atol=1e-9) or (matrices < -1e-9).any():
            raise ValueError(
                "`matrices` must have entries of at least 0, and rows and columns that sum to 1. "
                f"Received: least entry {matrices.min():g}, sums between {sums.min():g} and "
                f"{sums.max():g}"
            )
        matrices.flags.writeable = False
        object.__setattr__(self, "matrices", matrices)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.matrices.shape[1]

    @property
    def period(self) -> int:
        """Number of steps after which the matrices repeat."""
        return len(self.matrices)

    def matrix(self, step: int) -> np.ndarray:
        """Returns the matrix of a step, `(nodes, nodes)` float64."""
        return self.matrices[step % self.period]

    @property
    def second_eigenvalue(self) -> float:
        """The factor by which a step shrinks the differences between nodes, in the long run.

        Of a single matrix, the second largest modulus of its eigenvalues. Of several, that of their
        product, per step.
        """
        # A long product is smaller than what rounding leaves of the mean, which is therefore taken
        # away from each factor, and in the end smaller than any float.
        product, exponent = np.eye(self.nodes), 0
        for matrix in self.matrices:
            product = (matrix - 1 / self.nodes) @ product
            largest = np.abs(product).max()
            if largest < 1e-14:  # a product of entries of about 1 that is 0 but for rounding
                return 0.0
            power = int(np.frexp(largest)[1])
            product, exponent = np.ldexp(product, -power), exponent + power
        eigenvalue = np.abs(np.linalg.eigvals(product)).max()
        return float(eigenvalue ** (1 / self.period) * 2 ** (exponent / self.period))

    @property
    def spectral_gap(self) -> float:
        """1 less the second eigenvalue: 1 if a period averages exactly, 0 if it never does."""
        return 1 - self.second_eigenvalue

    def get_config(self) -> dict:
        """Returns the arguments the topology was made with."""
        return {"name": self.name, "matrices": self.matrices}


def ring(nodes: int) -> Topology:
    """Every node has two neighbours, weights 1/3; of two nodes each has one, weights 1/2."""
    return _circulant("ring", integer("nodes", nodes), [1, -1])


def grid(nodes: int) -> Topology:
    """A grid of rows and columns, as square as the number of nodes allows."""
    return _lattice("grid", integer("nodes", nodes), closed=False)


def torus(nodes: int) -> Topology:
    """A grid whose opposite sides are joined."""
    return _lattice("torus", integer("nodes", nodes), closed=True)


def star(nodes: int) -> Topology:
    """Node 0 is the neighbour of all others, weights `1 / nodes`."""
    edges = np.zeros((integer("nodes", nodes), nodes), bool)
    edges[0, 1:] = True
    return _metropolis("star", edges)


def full(nodes: int) -> Topology:
    """All nodes are neighbours: a step averages exactly."""
    nodes = integer("nodes", nodes)
    return Topology("full", np.full((1, nodes, nodes), 1 / nodes))


def exponential(nodes: int) -> Topology:
    """Node `i` receives from `i - 1`, `i - 2`, `i - 4`..., modulo the number of nodes.

    The weights are uniform. The graph is directed, and its matrix not symmetric.
    """
    hops = [2**k for k in range((integer("nodes", nodes) - 1).bit_length())]
    return Topology("exponential", [_uniform(nodes, [-hop for hop in hops])])


def symmetric_exponential(nodes: int) -> Topology:
    """Nodes are neighbours at distance 1, 4, 16... around a ring; uniform weights."""
    nodes = integer("nodes", nodes)
    hops = [4**k for k in range(nodes.bit_length()) if 4**k <= nodes // 2]
    return _circulant("symmetric exponential", nodes, [*hops, *(-hop for hop in hops)])


def one_peer_exponential(nodes: int) -> Topology:
    """In step `k` node `i` receives from `i - 2^k` alone, weights 1/2.

    `k` counts modulo `log2(nodes)`, rounded up. For a power of two one period averages exactly.
    """
    steps = max(1, (integer("nodes", nodes) - 1).bit_length())
    return Topology("one-peer exponential", [_uniform(nodes, [-(2**k)]) for k in range(steps)])


def hypercube(nodes: int) -> Topology:
    """In step `k` the nodes whose numbers differ in bit `k` alone are paired, weights 1/2.

    `k` counts modulo `log2(nodes)`. One period averages exactly, at one exchange a step.

    Raises:
        ValueError: If the number of nodes is no power of two.
    """
    if (nodes := integer("nodes", nodes)) & (nodes - 1):
        raise ValueError(f"`nodes` must be a power of two. Received: nodes={nodes}")
    steps = max(1, nodes.bit_length() - 1)
    pairs = [np.arange(nodes) ^ (2**k % nodes) for k in range(steps)]
    return Topology("hypercube", [_matching(partners) for partners in pairs])


def random_matchings(nodes: int, *, period: int = 64, seed: int = 0) -> Topology:
    """In every step the nodes are paired at random, weights 1/2; an odd one stays alone.

    Args:
        nodes: Number of nodes.
        period: Number of matchings, which are drawn once.
        seed: Decides which.
    """
    nodes, rng = integer("nodes", nodes), np.random.default_rng(seed)
    matrices = []
    for _ in range(integer("period", period)):
        order, partners = rng.permutation(nodes), np.arange(nodes)
        first, second = order[: nodes // 2], order[nodes // 2 : nodes // 2 * 2]
        partners[first], partners[second] = second, first
        matrices.append(_matching(partners))
    return Topology("random matchings", matrices)


def _matching(partners: np.ndarray) -> np.ndarray:
    identity = np.eye(len(partners))
    return (identity + identity[partners]) / 2


def _uniform(nodes: int, hops: list[int]) -> np.ndarray:
    """Returns the matrix in which node `i` receives from `i + hop` for all hops, and itself."""
    identity = np.eye(nodes)
    distinct = sorted({hop % nodes for hop in [0, *hops]})
    return sum(np.roll(identity, hop, axis=1) for hop in distinct) / len(distinct)


def _circulant(name: str, nodes: int, hops: list[int]) -> Topology:
    return Topology(name, [_uniform(nodes, hops)])


def _lattice(name: str, nodes: int, closed: bool) -> Topology:
    rows = max(d for d in range(1, int(nodes**0.5) + 1) if nodes % d == 0)
    numbers = np.arange(nodes).reshape(rows, -1)
    edges = np.zeros((nodes, nodes), bool)
    for axis in (0, 1):
        after = np.roll(numbers, -1, axis)
        if not closed:
            after = np.delete(after, -1, axis)
        before = numbers if closed else np.delete(numbers, -1, axis)
        edges[before.ravel(), after.ravel()] = True
    return _metropolis(name, edges)


def _metropolis(name: str, edges: np.ndarray) -> Topology:
    """Returns the topology of a graph, `(nodes, nodes)` bool, true for neighbours in one order."""
    edges = (edges | edges.T) & ~np.eye(len(edges), dtype=bool)
    degrees = 1 + edges.sum(1)
    matrix = edges / np.maximum(degrees[:, None], degrees)
    return Topology(name, [matrix + np.diag(1 - matrix.sum(1))])
