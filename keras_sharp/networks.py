"""The six networks of Keskar et al. 2017, as their authors' code builds them.

Every function returns a built `keras.Model` with logits as its output (train it with
`from_logits=True`). Weights are Glorot-uniform and biases zero, Keras's defaults then and now; call
`keras.utils.set_random_seed` first to choose them.

Note:
    The authors' BatchNormalization (`mode=2` of Keras 1) used the statistics of the batch at test
    time too. Keras 3 has no such mode of the layer: ask for it where a model is measured, with
    `batch_norm="batch"`.

References:
    - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), Table 1 and appendix B
    - [Authors' code](https://github.com/keskarnitish/large-batch-training), `network_zoo.py`
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import keras
from keras import layers

# The default of Keras 1.0.8, of the time when the authors drew their figures (24 August 2016).
# Keras 1.2.2, like Keras 3, has 1e-3.
_EPSILON = 1e-5


def F1(
    input_shape: Sequence[int] = (784,),
    classes: int = 10,
    *,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Fully connected network for MNIST: 5 x (dense 512, BatchNorm, ReLU), dense.

    1,462,794 trainable parameters with the default arguments.

    Args:
        input_shape: Shape of one example; it is flattened first if it has several axes.
        classes: Number of outputs.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "F1".

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.1
    """
    return _fully_connected("F1", 5, input_shape, classes, momentum, synchronized)


def F2(
    input_shape: Sequence[int] = (360,),
    classes: int = 1973,
    *,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Fully connected network for TIMIT: 7 x (dense 512, BatchNorm, ReLU), dense.

    2,780,085 trainable parameters with the default arguments.

    Args:
        input_shape: Shape of one example; it is flattened first if it has several axes.
        classes: Number of outputs.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "F2".

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.2
    """
    return _fully_connected("F2", 7, input_shape, classes, momentum, synchronized)


def C1(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    *,
    stride: Literal["code", "paper"] = "code",
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Shallow convolutional network for CIFAR-10, like AlexNet.

    2 x (convolution 64 filters 5x5, BatchNorm, ReLU, max-pool 3x3), flatten, dense 384, BatchNorm,
    ReLU, dropout 0.5, dense 192, BatchNorm, ReLU, dropout 0.5, dense. 1,757,834 trainable
    parameters with the default arguments.

    Args:
        input_shape: `(height, width, channels)` of one image.
        classes: Number of outputs.
        stride: Where an image shrinks. `"code"`: stride 1 in the convolution and 2 in the pooling,
            which is what the authors ran. `"paper"`: stride 2 in the convolution, as the appendix
            has it.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "C1".

    Note:
        The appendix gives no stride for its pooling. `"paper"` takes the size of the window, 3, as
        the appendix must mean it in C2, where it pools by 2: 32 pixels become 16, 6, 3, 1.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.3
        - [Authors' code](https://github.com/keskarnitish/large-batch-training), `network_zoo.py`
    """
    return _alexnet("C1", input_shape, classes, stride, momentum, synchronized)


def C2(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    *,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Deep convolutional network for CIFAR-10, like VGG.

    Convolutions 3x3, each followed by BatchNorm and ReLU, in stacks of 2 x 64, 2 x 128, 3 x 256,
    3 x 512 and 3 x 512 filters; after every convolution but a stack's last a dropout (0.3 in the
    first stack, 0.4 in the others), after every stack a max-pool 2x2. Then flatten, dropout 0.5,
    dense 512, BatchNorm, ReLU, dropout 0.5, dense. 14,991,946 trainable parameters with the default
    arguments.

    Args:
        input_shape: `(height, width, channels)` of one image.
        classes: Number of outputs.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "C2".

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.4
        - [Authors' code](https://github.com/keskarnitish/large-batch-training), `network_zoo.py`
    """
    return _vgg("C2", input_shape, classes, momentum, synchronized)


def C3(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 100,
    *,
    stride: Literal["code", "paper"] = "code",
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Shallow convolutional network for CIFAR-100: `C1` with 100 outputs.

    1,775,204 trainable parameters with the default arguments.

    Args:
        input_shape: `(height, width, channels)` of one image.
        classes: Number of outputs.
        stride: Where an image shrinks, see `C1`.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "C3".

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.3
    """
    return _alexnet("C3", input_shape, classes, stride, momentum, synchronized)


def C4(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 100,
    *,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """Deep convolutional network for CIFAR-100: `C2` with 100 outputs.

    15,038,116 trainable parameters with the default arguments.

    Args:
        input_shape: `(height, width, channels)` of one image.
        classes: Number of outputs.
        momentum: Of the moving statistics of BatchNormalization.
        synchronized: Whether BatchNormalization shares its statistics among replicas.

    Returns:
        A built model named "C4".

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix B.4
    """
    return _vgg("C4", input_shape, classes, momentum, synchronized)


class Network(NamedTuple):
    """A network of the paper and the data it was trained on.

    Attributes:
        build: The function that makes it.
        data: Name of the data set, for `keras_sharp.datasets.load`.
        description: A few words for tables.
    """

    build: Callable[..., keras.Model]
    data: str
    description: str


NETWORKS: dict[str, Network] = {
    "F1": Network(F1, "mnist", "fully connected, 5 hidden layers"),
    "F2": Network(F2, "timit", "fully connected, 7 hidden layers"),
    "C1": Network(C1, "cifar10", "shallow convolutional, like AlexNet"),
    "C2": Network(C2, "cifar10", "deep convolutional, like VGG"),
    "C3": Network(C3, "cifar100", "shallow convolutional, like AlexNet"),
    "C4": Network(C4, "cifar100", "deep convolutional, like VGG"),
}


def _fully_connected(
    name: str,
    depth: int,
    input_shape: Sequence[int],
    classes: int,
    momentum: float,
    synchronized: bool,
) -> keras.Model:
    """Returns `depth` hidden layers of 512 units."""
    inputs = x = keras.Input(input_shape)
    if len(inputs.shape) > 2:
        x = layers.Flatten()(x)
    for _ in range(depth):
        x = _normalised(layers.Dense(512)(x), momentum, synchronized)
    return keras.Model(inputs, layers.Dense(classes)(x), name=name)


def _alexnet(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    stride: str,
    momentum: float,
    synchronized: bool,
) -> keras.Model:
    """Returns the shallow convolutional network, see `C1`."""
    if stride not in ("code", "paper"):
        raise ValueError(f'`stride` must be "code" or "paper". Received: stride={stride!r}')
    convolution_stride, pool_stride = (1, 2) if stride == "code" else (2, 3)
    inputs = x = _image(input_shape)
    for _ in range(2):
        x = layers.Conv2D(64, 5, strides=convolution_stride, padding="same")(x)
        x = _normalised(x, momentum, synchronized)
        x = layers.MaxPooling2D(3, strides=pool_stride, padding="same")(x)
    x = layers.Flatten()(x)
    for units in (384, 192):
        x = _normalised(layers.Dense(units)(x), momentum, synchronized)
        x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name=name)


def _vgg(
    name: str, input_shape: Sequence[int], classes: int, momentum: float, synchronized: bool
) -> keras.Model:
    """Returns the deep convolutional network, see `C2`."""
    inputs = x = _image(input_shape)
    for filters, depth, rate in (
        (64, 2, 0.3),
        (128, 2, 0.4),
        (256, 3, 0.4),
        (512, 3, 0.4),
        (512, 3, 0.4),
    ):
        for position in range(depth):
            x = layers.Conv2D(filters, 3, padding="same")(x)
            x = _normalised(x, momentum, synchronized)
            if position < depth - 1:
                x = layers.Dropout(rate)(x)
        x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(_normalised(layers.Dense(512)(x), momentum, synchronized))
    return keras.Model(inputs, layers.Dense(classes)(x), name=name)


def _normalised(x: keras.KerasTensor, momentum: float, synchronized: bool) -> keras.KerasTensor:
    """Returns the normalised and rectified outputs of a linear layer."""
    x = layers.BatchNormalization(momentum=momentum, epsilon=_EPSILON, synchronized=synchronized)(x)
    return layers.ReLU()(x)


def _image(input_shape: Sequence[int]) -> keras.KerasTensor:
    """Returns the input of a network of images; the size must be known."""
    if len(input_shape) != 3 or not all(size and size > 0 for size in input_shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), all known. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return keras.Input(input_shape)
