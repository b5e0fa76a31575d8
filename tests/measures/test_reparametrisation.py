"""Which measure survives which reparametrisation: the table of docs/measures.md, row by row.

Each column leaves what the network predicts as it is (Dinh et al. 2017, arXiv 1703.04933):

| measure                                  | layer x 10, next / 10 | before BN / 10 | logits x 10 |
|------------------------------------------|-----------------------|----------------|-------------|
| `sharpness` (the box of Keskar et al.)   | changes               | changes        | changes     |
| Hessian: top eigenvalue, trace, density  | change                | change         | change      |
| `noise_scale`                            | changes               | changes        | changes     |
| `surface`, filter-normalised directions  | the same              | the same       | changes     |
| worst and average case, `adaptive=False` | change                | change         | change      |
| worst and average case, adaptive         | the same              | the same       | change      |
| ... and with `normalize_logits=True`     | the same              | the same       | the same    |
"""

import keras
import numpy as np
import pytest

from keras_sharp import sharpness
from keras_sharp.landscape import surface
from keras_sharp.measures.average_case import average_case_sharpness
from keras_sharp.measures.density import hessian_density
from keras_sharp.measures.eigenvalues import hessian_eigenvalues
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.measures.trace import hessian_trace
from keras_sharp.measures.worst_case import worst_case_sharpness

L = keras.layers


def rise(result):
    return result.loss.max() - result.centre_loss


def adaptive(measure, norm, rho, **options):
    return lambda *args, **kwargs: float(
        measure(*args, rho=rho, norm=norm, m=20, **options, **kwargs)
    )


MEASURES = {
    "sharpness": lambda *args, **kwargs: float(sharpness(*args, epsilon=1e-3, **kwargs)),
    "top eigenvalue": lambda *args, **kwargs: float(hessian_eigenvalues(*args, k=1, **kwargs)),
    "trace": lambda *args, **kwargs: float(hessian_trace(*args, sketch=100, **kwargs)),
    "density": lambda *args, **kwargs: hessian_density(*args, steps=5, **kwargs).moment(2)[0],
    # With batch statistics the evaluation batches are the small ones.
    "noise scale": lambda *args, **kwargs: float(noise_scale(*args, batch_size=8, **kwargs)),
    "filter-normalised surface": lambda *args, **kwargs: rise(
        surface(*args, dimensions=1, extent=0.3, points=3, **kwargs)
    ),
    "worst case, linf": adaptive(worst_case_sharpness, "linf", 0.002, adaptive=False),
    "worst case, l2": adaptive(worst_case_sharpness, "l2", 0.02, adaptive=False),
    "average case": adaptive(average_case_sharpness, "l2", 0.01, adaptive=False),
    "adaptive worst case, linf": adaptive(worst_case_sharpness, "linf", 0.002),
    "adaptive worst case, l2": adaptive(worst_case_sharpness, "l2", 0.02),
    "adaptive average case, linf": adaptive(average_case_sharpness, "linf", 0.05),
    "adaptive average case, l2": adaptive(average_case_sharpness, "l2", 0.02),
    "adaptive worst case, linf, normalised": adaptive(
        worst_case_sharpness, "linf", 0.002, normalize_logits=True
    ),
    "adaptive average case, l2, normalised": adaptive(
        average_case_sharpness, "l2", 0.02, normalize_logits=True
    ),
}


def net(*, norm: bool):
    keras.utils.set_random_seed(2)
    random = np.random.default_rng(2)
    layers = [L.Dense(6, use_bias=not norm, name="first")]
    if norm:
        layers.append(L.BatchNormalization(epsilon=1e-14, name="norm"))
    model = keras.Sequential([keras.Input((5,)), *layers, L.ReLU(), L.Dense(3, name="second")])
    model.set_weights([random.uniform(0.5, 1.5, v.shape) for v in model.weights])
    for layer in ("first", "second"):
        kernel = model.get_layer(layer).kernel
        kernel.assign(random.normal(size=kernel.shape))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (random.normal(size=(40, 5)), random.integers(0, 3, 40))


def scale(model, layer, factor, *, bias=True):
    layer = model.get_layer(layer)
    layer.kernel.assign(factor * layer.kernel)
    if bias and layer.bias is not None:
        layer.bias.assign(factor * layer.bias)


def layers(model):
    scale(model, "first", 10.0)
    scale(model, "second", 0.1, bias=False)


def before_norm(model):
    scale(model, "first", 0.1)


def logits(model):
    scale(model, "second", 10.0)


COLUMNS = {
    "layer x 10, next / 10": (layers, {"norm": False}, {}),
    "before BN / 10": (before_norm, {"norm": True}, {"batch_norm": "batch"}),
    "logits x 10": (logits, {"norm": False}, {}),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("column", COLUMNS)
def test_the_table(float64, column, measure):
    change, build, options = COLUMNS[column]
    model, data = net(**build)
    predicted = model(data[0], training=build["norm"]).numpy()
    before = MEASURES[measure](model, data, **options)
    change(model)
    after = MEASURES[measure](model, data, **options)
    now = model(data[0], training=build["norm"]).numpy()
    np.testing.assert_array_equal(predicted.argmax(axis=1), now.argmax(axis=1))
    free = "adaptive" in measure or "surface" in measure
    survives = free and (column != "logits x 10" or "normalised" in measure.split(", "))
    if survives:
        assert after == pytest.approx(before, rel=1e-6)
    else:
        assert after != pytest.approx(before, rel=0.05)
