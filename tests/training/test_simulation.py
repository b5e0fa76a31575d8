"""Nodes stacked on one device, and the data they have."""

import keras
import numpy as np
import pytest

from keras_sharp.optimizers import CorrectedSGD
from keras_sharp.training import Trainer, splits, topology
from keras_sharp.training.neighbours import DSGD, DecentLaM, PmSGD
from keras_sharp.training.simulation import Simulation


def test_the_full_graph_is_momentum_sgd_on_one_device(net, loss, blobs, float64):
    x, y = blobs[0][:128], blobs[1][:128]
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.02])
    trainer = Trainer(net(), CorrectedSGD(rate, momentum=0.9), loss)
    trainer.fit((x, y), batch_size=64, epochs=10, shuffle=False, verbose=0)
    split = np.arange(128).reshape(2, 16, 4).swapaxes(0, 1).reshape(16, 8)
    for method in (PmSGD(16), DecentLaM(topology.full(16))):
        simulation = Simulation(net(), keras.optimizers.SGD(rate, momentum=0.9), loss, method)
        figures = simulation.fit((x, y), split, batch_size=4, steps=20, shuffle=False)
        for one, other in zip(simulation.model.weights, trainer.model.weights, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)
        np.testing.assert_allclose(figures["loss"][-2:], trainer.batch_losses, rtol=1e-5)
        assert figures["consensus_distance"].max() < 1e-10


def test_nodes_draw_masks_of_their_own_and_are_evaluated(net, loss, blobs):
    model = net(None, "plain", dropout=0.5)
    nodes, graph = 6, topology.ring(6)
    same = [np.arange(8)] * nodes
    method = DecentLaM(graph)
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    simulation = Simulation(model, sgd, loss, method, metrics=["accuracy"])
    before = simulation.weights.numpy()
    figures = simulation.fit(blobs, same, batch_size=8, steps=1, shuffle=False)
    # From the same weights and examples, masks alone make a difference.
    assert len(np.unique(simulation.weights.numpy(), axis=0)) == nodes
    assert figures["consensus_distance"][0] > 0
    assert (before == before[0]).all()
    found = simulation.evaluate(blobs)
    weights = simulation.weights.numpy()
    accuracies = []
    for row in weights:
        simulation._assign(row)
        predicted = model.predict(blobs[0], verbose=0).argmax(1)
        accuracies.append((predicted == blobs[1]).mean())
    assert found["mean_of_nodes_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
    simulation._assign(weights.mean(0))
    predicted = model.predict(blobs[0], verbose=0).argmax(1)
    assert found["accuracy"] == pytest.approx((predicted == blobs[1]).mean(), abs=1e-6)
    with pytest.raises(ValueError, match="`split` must have a part with examples for each of 6"):
        simulation.fit(blobs, same[1:], batch_size=8, steps=1)
    for part in (np.array([130]), np.array([-1]), np.ones(8, bool)):
        with pytest.raises(ValueError, match="indices of examples, integers from 0 to 129"):
            simulation.fit(blobs, [*same[1:], part], batch_size=8, steps=1)
    with pytest.raises(ValueError, match="must have the same first dimension"):
        simulation.fit((blobs[0], blobs[1][:-1]), same, batch_size=8, steps=1)
    # A ring exchanges with both sides.
    assert simulation.bytes_per_step(0) == 2 * 4 * weights.shape[1]
    with pytest.raises(ValueError, match="`optimizer` must be new"):
        Simulation(net(), sgd, loss, method)
    with pytest.raises(ValueError, match="Labels must be integers"):
        simulation.fit((blobs[0], blobs[1] + 9), same, batch_size=8, steps=1)


def linear(**options):
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", **options)
    return keras.Sequential([keras.Input((2,)), dense])


@pytest.mark.usefixtures("float64")
def test_two_calls_go_on_and_the_weights_decay_by_hand():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 1))
    split, graph, rate, decay = np.arange(9).reshape(3, 3), topology.grid(3), 0.1, 0.5
    sgd = keras.optimizers.SGD(rate, weight_decay=decay)
    simulation = Simulation(linear(), sgd, "mse", DSGD(graph))
    losses = []
    for steps in (2, 3):
        options = {"batch_size": 2, "steps": steps, "shuffle": False}
        losses.extend(simulation.fit((x, y), split, **options)["loss"])
    w, expected = np.ones((3, 2)), []
    for step in range(5):
        seen = split[:, [2 * step % 3, (2 * step + 1) % 3]]
        errors = np.einsum("nki,ni->nk", x[seen], w) - y[seen, 0]
        expected.append((errors**2).mean())
        g = 2 * np.einsum("nki,nk->ni", x[seen], errors) / 2 + decay * w
        w = graph.matrix(step) @ (w - rate * g)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    # To more digits than float32 has.
    np.testing.assert_allclose(simulation.weights.numpy(), w, rtol=1e-12)
    np.testing.assert_allclose(simulation.model.get_weights()[0][:, 0], w.mean(0), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_hundreds_of_nodes_with_different_classes_by_hand():
    nodes, batch, steps, rate, beta = 256, 4, 20, 0.05, 0.9
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2048, 2)), rng.normal(size=(2048, 1))
    graph = topology.one_peer_exponential(nodes)
    split = splits.dirichlet(np.arange(2048) % 10, nodes, alpha=0.1)
    sgd = keras.optimizers.SGD(rate, momentum=beta)
    simulation = Simulation(linear(), sgd, "mse", DecentLaM(graph))
    options = {"batch_size": batch, "steps": steps, "shuffle": False}
    figures = simulation.fit((x, y), split, **options)
    w, m, distances = np.ones((nodes, 2)), np.zeros((nodes, 2)), []
    for step in range(steps):
        seen = np.stack(
            [np.take(part, batch * step + np.arange(batch), mode="wrap") for part in split]
        )
        errors = np.einsum("nki,ni->nk", x[seen], w) - y[seen, 0]
        g = 2 * np.einsum("nki,nk->ni", x[seen], errors) / batch
        m = beta * m + w - graph.matrix(step) @ (w - rate * g)
        w = w - m
        distances.append(((w - w.mean(0)) ** 2).sum(1).mean())
    assert distances[-1] > 1e-3
    np.testing.assert_allclose(figures["consensus_distance"], distances, rtol=1e-5)
    np.testing.assert_allclose(simulation.weights.numpy(), w, rtol=1e-9, atol=1e-12)


def test_shuffled_rounds_go_on_too(net, loss, blobs):
    made = []
    for calls in ([7], [3, 4]):
        sgd = keras.optimizers.SGD(0.1, momentum=0.9)
        simulation = Simulation(linear(), sgd, "mse", DecentLaM(topology.ring(3)))
        data, split = (blobs[0][:, :2], blobs[0][:, 2:3]), np.arange(15).reshape(3, 5)
        for steps in calls:
            simulation.fit(data, split, batch_size=2, steps=steps, seed=1)
        made.append(simulation.weights.numpy())
    np.testing.assert_array_equal(*made)


def test_models_whose_steps_would_be_others_are_refused():
    method = DSGD(topology.ring(3))
    keep = keras.constraints.NonNeg()
    with pytest.raises(ValueError, match="`model` must have no constraints for DSGD"):
        Simulation(linear(kernel_constraint=keep), keras.optimizers.SGD(), "mse", method)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="use `mixed_bfloat16`"):
        Simulation(model, keras.optimizers.SGD(), "mse", method)


def classes_of(split, labels):
    return [np.bincount(labels[part], minlength=10) for part in split]


def test_splits_deal_every_example_once():
    labels = np.random.default_rng(0).permutation(np.arange(1003) % 10)
    made = {
        "even": splits.even(len(labels), 8),
        "pieces": splits.by_class(labels, 8, pieces=1, seed=3),
        "alike": splits.dirichlet(labels, 8, alpha=1e6),
        "skewed": splits.dirichlet(labels, 8, alpha=0.01),
    }
    for name, split in made.items():
        np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(1003), name)
        assert {len(part) for part in split} == {125, 126}
    # An eighth of sorted examples of ten classes has three of them at most.
    assert all((each > 0).sum() <= 3 for each in classes_of(made["pieces"], labels))
    # Ten classes of about 12.5 examples in a node: shares of 1e6 all but equal them.
    alike = np.array(classes_of(made["alike"], labels))
    assert alike.min() > 0 and alike.max() < 30
    # A node takes the larger part of its examples from two classes, as long as there are any.
    first = classes_of(made["skewed"], labels)[:4]
    assert all(np.sort(each)[-2:].sum() > 0.7 * each.sum() for each in first)
    with pytest.raises(ValueError, match="an example for each node"):
        splits.even(3, 4)
    for split in (splits.by_class, lambda *args: splits.dirichlet(*args, alpha=1)):
        with pytest.raises(ValueError, match="`labels` must have the shape"):
            split(np.eye(10)[labels], 4)
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        splits.dirichlet(labels, 4, alpha=0)
