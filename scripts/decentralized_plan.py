"""How long a step and a training take as nodes grow to thousands, under three communications.

Sending `B` bytes over a link takes `latency + B / bandwidth`. Links are full duplex, nodes stand in
racks of `rack`, and a rack's uplink has `rack / oversubscription` times the bandwidth of a link.
Nothing is sent while a node computes, and all nodes are equally fast.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WAYS = ("all-reduce", "one-peer exponential", "ring")
COLOURS = ("tab:blue", "tab:orange", "tab:green")
# All nodes agree exactly under all-reduce: another way must be faster than by rounding.
MARGIN = 1.05


class Cluster(NamedTuple):
    """What is measured.

    Attributes:
        step_seconds: Time in which a node computes the gradient of its part of a batch.
        size: Bytes of the weights.
        bandwidth: Of a link, in bytes a second.
        latency: Of a message, in seconds.
        rack: Nodes in a rack, a power of two.
        oversubscription: How much more a rack's nodes can send than its uplink takes.
        ring_limit: The largest number of nodes, 4 or more, with which a ring still trains as well
            as all-reduce does at the same learning rate.
    """

    step_seconds: float
    size: float
    bandwidth: float
    latency: float
    rack: int = 16
    oversubscription: float = 1.0
    ring_limit: int = 16


class Row(NamedTuple):
    """The plan for a number of nodes; each figure for all-reduce, one-peer exponential and ring.

    Attributes:
        nodes: Their number.
        communication: Seconds of a step in which vectors travel.
        factors: How many times more steps are needed.
        seconds: Step with communication, times that factor.
        best: The winner.
    """

    nodes: int
    communication: list[float]
    factors: list[float]
    seconds: list[float]
    best: str


def communication(cluster: Cluster, nodes: int) -> list[float]:
    """Returns the seconds in which a step's vectors travel, by the order of `WAYS`.

    All-reduce is the faster of a ring, in which parts of the vector go round, and of halving and
    doubling, which sends the largest parts to the nearest nodes. One-peer is the mean of its hops.

    Args:
        cluster: What is measured.
        nodes: A power of two, 2 at least.
    """
    travel = cluster.size / cluster.bandwidth
    hops = [2**k for k in range(int(nodes).bit_length() - 1)]
    crowded = cluster.oversubscription if nodes > cluster.rack else 0.0

    def slower(leaving: int) -> float:
        """Returns by how much messages slow down if so many leave each rack."""
        return max(1.0, crowded * min(leaving, cluster.rack) / cluster.rack)

    part = travel / nodes * slower(1)
    around = 2 * (nodes - 1) * (cluster.latency + part)
    # Its partners are nodes whose numbers differ in one bit: a rack's, or all of another rack.
    leaving = [hop if hop >= cluster.rack else 0 for hop in hops]
    pairs = zip(hops, leaving, strict=True)
    halving = sum(cluster.latency + travel / (2 * hop) * slower(away) for hop, away in pairs)
    one_peer = sum(cluster.latency + travel * slower(hop) for hop in hops) / len(hops)
    neighbours = 1 if nodes == 2 else 2
    ring = cluster.latency + neighbours * travel * slower(1)
    return [min(around, 2 * halving), one_peer, ring]


@functools.cache
def strays(nodes: int) -> list[float]:
    """Returns how far nodes stray, by the order of `WAYS`.

    Nodes whose gradients differ from their mean by `h_i` come to rest, at a rate `gamma`, at
    `-gamma sum_j P_j h`, where `P_j` is the product of the last `j` mixing matrices less the exact
    mean. For differences in random directions the mean of `|w_i - mean|^2` is that of `|h_i|^2`
    times `gamma^2` times the figure returned. It grows as `nodes^3 / 80` in a ring, and stays below
    6 in a one-peer exponential graph.
    """
    # Both are circulant: products are products of eigenvalues, one for each frequency.
    frequencies = 2 * np.pi * np.arange(1, nodes) / nodes
    ring = (1 + 2 * np.cos(frequencies)) / 3 if nodes > 2 else np.zeros(1)
    steps = int(nodes).bit_length() - 1
    peers = [(1 + np.exp(-1j * 2**k * frequencies)) / 2 for k in range(steps)]
    sums = []
    for last in range(steps):
        product, total = 1.0, 0.0
        for j in range(steps):
            product = product * peers[(last - j) % steps]
            total = total + product
        sums.append(np.sum(np.abs(total) ** 2))
    one_peer, around = np.mean(sums), np.sum((ring / (1 - ring)) ** 2)
    return [0.0, float(one_peer) / (nodes - 1), float(around) / (nodes - 1)]


def plan(cluster: Cluster, numbers: Sequence[int]) -> list[Row]:
    """Returns the plan for each number of nodes.

    Nodes that stray farther than they do in the ring of `ring_limit` need a lower rate to come as
    near to each other, in proportion to the root of `strays`, and so many more steps.
    """
    limit, rows = strays(cluster.ring_limit)[WAYS.index("ring")], []
    for nodes in numbers:
        sent = communication(cluster, nodes)
        factors = [max(1.0, math.sqrt(stray / limit)) for stray in strays(nodes)]
        pairs = zip(sent, factors, strict=True)
        seconds = [(cluster.step_seconds + each) * factor for each, factor in pairs]
        fastest = WAYS[int(np.argmin(seconds))]
        best = fastest if seconds[0] > MARGIN * min(seconds) else WAYS[0]
        rows.append(Row(nodes, sent, factors, seconds, best))
    return rows


def draw_times(rows: Sequence[Row], cluster: Cluster, ax: "Axes") -> None:
    """Draws the seconds of a step, times the factor of steps, against the nodes."""
    nodes = [row.nodes for row in rows]
    for number, (way, colour) in enumerate(zip(WAYS, COLOURS, strict=True)):
        ax.plot(nodes, [row.seconds[number] for row in rows], "o-", color=colour, label=way)
    ax.axhline(cluster.step_seconds, color="0.5", linestyle=":", label="computing alone")
    ax.set(xscale="log", yscale="log", xlabel="nodes", ylabel="seconds a step, times more steps")
    ax.set_ylim(top=30 * min(max(row.seconds[:2]) for row in rows))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False)


def draw_winners(cluster: Cluster, numbers: Sequence[int], ax: "Axes") -> None:
    """Draws who wins at which number of nodes and which bandwidth."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    bandwidths = np.geomspace(1e7, 1e11, 60)
    won = [
        [WAYS.index(row.best) for row in plan(cluster._replace(bandwidth=each), numbers)]
        for each in bandwidths
    ]
    gigabits = bandwidths * 8 / 1e9
    ax.pcolormesh(
        numbers, gigabits, won, cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=2.5, alpha=0.7
    )
    ax.axhline(cluster.bandwidth * 8 / 1e9, color="black", linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="nodes", ylabel="bandwidth of a link (Gbit/s)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    patches = [Patch(color=c, alpha=0.7, label=w) for w, c in zip(WAYS, COLOURS, strict=True)]
    ax.legend(
        handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
    )
