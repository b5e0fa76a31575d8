"""The published curves are those of the paper's Figure 3."""

import numpy as np
import pytest

from keras_sharp.landscape.published import NETWORKS, published_path


@pytest.mark.parametrize("network", NETWORKS)
def test_the_curves(network):
    curves = published_path(network)
    np.testing.assert_allclose(curves.alphas, np.linspace(-1, 2, 25))
    at = {alpha: index for index, alpha in enumerate(curves.alphas.tolist())}
    # Both ends are solutions: the loss is small, and a local minimum on the line at the large one.
    loss = curves.train_loss
    assert loss[at[0.0]] < 0.04 and loss[at[1.0]] < 0.02
    assert loss[at[1.0]] < min(loss[at[0.875]], loss[at[1.125]])
    assert curves.train_accuracy[at[1.0]] > 0.99
    assert np.all(curves.test_loss[at[0.0]] > loss[at[0.0]])


def test_rows_of_the_authors_figures():
    """One interior point a network, written down by hand from the published figures' table."""
    for network, alpha, row in (
        ("C1", -0.5, (0.0864, 1.3956, 97.08, 76.11)),
        ("C2", 0.75, (1.7055, 1.9842, 63.90, 60.27)),
        ("C3", 1.25, (9.6831, 9.9874, 4.17, 3.30)),
        ("C4", -0.25, (0.1197, 1.6520, 97.69, 61.50)),
    ):
        curves = published_path(network)
        [index] = np.flatnonzero(curves.alphas == alpha)
        found = curves.train_loss, curves.test_loss, curves.train_accuracy, curves.test_accuracy
        scaled = [each[index] for each in found[:2]] + [100 * each[index] for each in found[2:]]
        np.testing.assert_allclose(scaled, row)


def test_other_networks_have_none():
    with pytest.raises(ValueError, match="Received: 'F1'"):
        published_path("F1")
