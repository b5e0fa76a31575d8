import itertools

import keras
import numpy as np
import pytest

from keras_sharp.networks import C1, C2, C3, C4, F1, F2, NETWORKS


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# A dense or convolution kernel, its biases, and gamma and beta of the normalisation behind it.
def dense(inputs, units):
    return inputs * units + units + 2 * units


def convolution(size, channels, filters):
    return size * size * channels * filters + filters + 2 * filters


VGG_WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG = sum(convolution(3, *pair) for pair in itertools.pairwise(VGG_WIDTHS)) + dense(512, 512)
ALEXNET = convolution(5, 3, 64) + convolution(5, 64, 64) + dense(64 * 8 * 8, 384) + dense(384, 192)
PARAMETERS = {  # the published counts beside the sum of the layers
    "F1": (1_462_794, dense(784, 512) + 4 * dense(512, 512) + 513 * 10),
    "F2": (2_780_085, dense(360, 512) + 6 * dense(512, 512) + 513 * 1973),
    "C1": (1_757_834, ALEXNET + 193 * 10),
    "C2": (14_991_946, VGG + 513 * 10),
    "C3": (1_775_204, ALEXNET + 193 * 100),
    "C4": (15_038_116, VGG + 513 * 100),
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts(name):
    published, by_layers = PARAMETERS[name]
    model = NETWORKS[name].build()
    assert trainable(model) == published == by_layers
    assert model.name == name


@pytest.mark.parametrize(("build", "classes"), [(C1, 10), (C3, 100)])
def test_shapes_of_the_shallow_networks(build, classes):
    model = build()
    assert model(np.zeros((3, 32, 32, 3), "float32")).shape == (3, classes)
    pools = [x.output.shape[1:] for x in model.layers if isinstance(x, keras.layers.MaxPooling2D)]
    assert pools == [(16, 16, 64), (8, 8, 64)]


def test_the_papers_stride():
    model = C1(stride="paper")
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.strides for x in convolutions] == [(2, 2), (2, 2)]
    assert [x.output.shape[1:3] for x in convolutions] == [(16, 16), (3, 3)]
    assert [x.strides for x in C1().layers if isinstance(x, keras.layers.Conv2D)] == [(1, 1)] * 2
    flat = convolution(5, 3, 64) + convolution(5, 64, 64) + dense(64, 384) + dense(384, 192) + 1930
    assert trainable(model) == flat


def test_order_and_rates_of_the_deep_network():
    kinds = "".join(
        {"Conv2D": "c", "Dropout": "d", "MaxPooling2D": "p", "Flatten": "f", "Dense": "D"}.get(
            type(layer).__name__, ""
        )
        for layer in C2().layers
    )
    assert kinds == "cdcp" * 2 + "cdcdcp" * 3 + "fdDdD"
    rates = [layer.rate for layer in C2().layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.3] + [0.4] * 7 + [0.5, 0.5]


@pytest.mark.parametrize("build", [F1, F2, C1, C2, C3, C4])
def test_normalisation_comes_between_the_linear_part_and_relu(build):
    model = build(momentum=0.5, synchronized=True)
    names = [type(layer).__name__ for layer in model.layers]
    for i, name in enumerate(names[:-1]):
        if name in ("Dense", "Conv2D"):
            assert names[i + 1 : i + 3] == ["BatchNormalization", "ReLU"]
            assert model.layers[i + 1].momentum == 0.5
            assert model.layers[i + 1].synchronized
            assert model.layers[i + 1].epsilon == 1e-5


@pytest.mark.parametrize("build", [F1, F2, C1, C2, C3, C4])
def test_outputs_are_logits(build):
    assert build().layers[-1].activation is keras.activations.linear


def test_any_input_shape_and_class_count():
    assert F1((28, 28, 1)).output_shape == (None, 10)
    assert trainable(F1((28, 28, 1))) == 1_462_794
    assert F2((8, 8), 4)(np.zeros((1, 8, 8), "float32")).shape == (1, 4)
    assert C1((28, 28, 1), 7)(np.zeros((1, 28, 28, 1), "float32")).shape == (1, 7)
    assert C2((40, 32, 1), 3)(np.zeros((1, 40, 32, 1), "float32")).shape == (1, 3)


def test_the_deep_network_pools_small_images_down_to_one_pixel():
    model = C2((28, 20, 1), 3)
    pools = [x.output.shape[1:3] for x in model.layers if isinstance(x, keras.layers.MaxPooling2D)]
    assert pools == [(14, 10), (7, 5), (4, 3), (2, 2), (1, 1)]  # halved, and rounded up
    assert model(np.ones((2, 28, 20, 1), "float32")).shape == (2, 3)
    assert C4((1, 1, 3))(np.ones((2, 1, 1, 3), "float32")).shape == (2, 100)


def test_the_seed_decides_the_weights():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return np.concatenate([w.ravel() for w in F1((4,), 2).get_weights()])

    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_every_network_names_its_data():
    assert {name: network.data for name, network in NETWORKS.items()} == {
        "F1": "mnist",
        "F2": "timit",
        "C1": "cifar10",
        "C2": "cifar10",
        "C3": "cifar100",
        "C4": "cifar100",
    }


def test_errors():
    with pytest.raises(ValueError, match=r"`stride` must be .* Received: stride=\'both\'"):
        C1(stride="both")
    with pytest.raises(ValueError, match=r"\(height, width, channels\).*\(784,\)"):
        C1((784,))
    with pytest.raises(ValueError, match=r"\(height, width, channels\).*None"):
        C4((None, None, 3))
