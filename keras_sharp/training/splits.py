"""Which examples each of several nodes has."""

import numpy as np

from keras_sharp.arguments import integer, positive


def even(examples: int, nodes: int, *, seed: int = 0) -> list[np.ndarray]:
    """Deals examples at random: every node has a sample of all data.

    Args:
        examples: Number of examples.
        nodes: Number of nodes.
        seed: Decides who gets what.

    Returns:
        The indices of each node's examples. Their numbers differ by one at most.

    Raises:
        ValueError: If there are fewer examples than nodes.
    """
    _check_enough(examples, nodes)
    return np.array_split(np.random.default_rng(seed).permutation(examples), nodes)


def by_class(labels: np.ndarray, nodes: int, *, pieces: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Gives every node examples of few classes.

    Sorted by class, the examples are cut into `pieces * nodes` pieces, equal up to one example, and
    each node gets `pieces` of them at random.

    Args:
        labels: `(examples,)` or `(examples, 1)` integers.
        nodes: Number of nodes.
        pieces: Pieces of a node.
        seed: Decides who gets what.

    Returns:
        The indices of each node's examples.

    Raises:
        ValueError: If there are too few examples, or labels of another shape.

    References:
        - [McMahan et al., 2017](https://arxiv.org/abs/1602.05629), section 3
    """
    count = integer("nodes", nodes) * integer("pieces", pieces)
    labels, rng = _one_each(labels), np.random.default_rng(seed)
    _check_enough(len(labels), count)
    order = rng.permutation(len(labels))
    cut = np.array_split(order[np.argsort(labels[order], kind="stable")], count)
    dealt = rng.permutation(count).reshape(nodes, pieces)
    return [np.concatenate([cut[piece] for piece in own]) for own in dealt]


def dirichlet(labels: np.ndarray, nodes: int, *, alpha: float, seed: int = 0) -> list[np.ndarray]:
    """Draws the proportions of classes of each node from a Dirichlet distribution.

    Its parameter is `alpha` times the proportions in the data times the number of classes: a large
    `alpha` makes nodes alike, one of 0.1 or less leaves most nodes with a few classes. All nodes
    have equally many examples, up to one. As classes run out, the last nodes take what is left.

    Args:
        labels: `(examples,)` or `(examples, 1)` integers.
        nodes: Number of nodes.
        alpha: Concentration.
        seed: Decides who gets what.

    Returns:
        The indices of each node's examples.

    Raises:
        ValueError: If there are too few examples or labels of another shape, or `alpha` is not
            positive.

    References:
        - [Hsu et al., 2019](https://arxiv.org/abs/1909.06335), section 2

    Note:
        The paper's parameter is `alpha` times the proportions: its `alpha` is this one times the
        number of classes. Here all entries are `alpha` if the classes are equally frequent.
    """
    alpha, rng = positive("alpha", alpha), np.random.default_rng(seed)
    labels = _one_each(labels)
    _check_enough(len(labels), nodes)
    order = rng.permutation(len(labels))
    classes = np.unique(labels)
    pools = [order[labels[order] == each] for each in classes]
    taken, sizes = np.zeros(len(classes), int), np.array([len(pool) for pool in pools])
    split = []
    for part in even(len(labels), nodes):
        wanted = rng.dirichlet(alpha * len(classes) * sizes / len(labels))
        before = taken.copy()
        while missing := len(part) - (taken - before).sum():
            odds = np.where(taken < sizes, wanted, 0)
            if not odds.sum() > 0:
                odds = sizes - taken
            shares = missing * odds / odds.sum()
            whole = shares.astype(int)
            # Rounding at random, or the node that takes what is left would be unlike the others.
            fractions = np.append(shares - whole, 0)
            rounded = rng.multinomial(missing - whole.sum(), fractions / max(fractions.sum(), 1))
            taken = np.minimum(taken + whole + rounded[:-1], sizes)
        own = zip(pools, before, taken, strict=True)
        split.append(np.concatenate([pool[a:b] for pool, a, b in own]))
    return split


def _one_each(labels: np.ndarray) -> np.ndarray:
    """Returns labels as `(examples,)`."""
    labels = np.asarray(labels)
    if labels.ndim != 1 and (labels.ndim != 2 or labels.shape[1] != 1):
        raise ValueError(
            "`labels` must have the shape (examples,) or (examples, 1); of one-hot labels take "
            f"`labels.argmax(1)`. Received: shape {labels.shape}"
        )
    return labels.ravel()


def _check_enough(examples: int, least: int) -> None:
    if integer("nodes", least) > examples:
        raise ValueError(
            "There must be an example for each node and piece. Received: "
            f"{examples} examples for {least}"
        )
