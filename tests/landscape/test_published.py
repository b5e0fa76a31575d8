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


def test_other_networks_have_none():
    with pytest.raises(ValueError, match="Received: 'F1'"):
        published_path("F1")
