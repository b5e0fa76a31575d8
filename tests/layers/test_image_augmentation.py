"""The paper's augmentation: what it does to an image, and in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.layers import ImageAugmentation
from keras_sharp.training import Trainer

L = keras.layers


def images(count=64, size=20):
    """A bright square of 4 x 4 pixels off the center, on black."""
    x = np.zeros((count, size, size, 1), "float32")
    x[:, 8:12, 4:8] = 1
    return x


def centers(x):
    """Centers of mass, `(count, 2)`, from the middle of the image in pixels."""
    place = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2
    mass = x.sum(axis=(1, 2, 3))
    across = [(x.sum(axis=(3 - axis, 3)) @ place) / mass for axis in (1, 2)]
    return np.stack(across, axis=1)


def test_at_inference_nothing_happens():
    np.testing.assert_array_equal(ImageAugmentation(seed=0)(images()), images())


def test_flips():
    x = images()
    flipped = ImageAugmentation(degrees=0, shift=0, seed=0)(x, training=True).numpy()
    mirrored = (flipped == x[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], x[~mirrored])
    assert 16 < mirrored.sum() < 48


def test_translations_are_up_to_a_fifth_either_way():
    layer = ImageAugmentation(flip=False, degrees=0, fill_mode="constant", seed=0)
    x = np.roll(images(400), 4, axis=2)  # near the middle: nothing leaves the image
    moved = centers(layer(x, training=True).numpy()) - centers(x)
    assert np.abs(moved).max() <= 0.2 * 20 + 1e-3
    assert (moved.max(axis=0) > 3.5).all() and (moved.min(axis=0) < -3.5).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_rotations_are_up_to_ten_degrees_either_way():
    layer = ImageAugmentation(flip=False, shift=0, seed=0)
    x = images(400)
    down, right = centers(layer(x, training=True).numpy()).T
    start = np.arctan2(*centers(x[:1])[0])
    turned = np.rad2deg(np.angle(np.exp(1j * (np.arctan2(down, right) - start))))
    assert np.abs(turned).max() < 10.5
    assert turned.max() > 9 and turned.min() < -9


def test_flip_angle_and_shift_are_independent():
    layer = ImageAugmentation(fill_mode="constant", seed=0)
    x = images(400)
    flipped, turned, moved = (centers(step(x, training=True).numpy()) for step in layer.steps)
    drawn = np.stack([flipped[:, 1], turned[:, 0], *moved.T])
    correlations = np.corrcoef(drawn) - np.eye(4)
    assert np.abs(correlations).max() < 0.2


@pytest.mark.parametrize(("replicas", "options"), [(1, {}), (1, {"micro_batch": 4}), (2, {})])
def test_in_the_trainer_each_step_draws_anew(replicas, options):
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        tf.distribute.MirroredStrategy._collective_key_base += 1000
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((20, 20, 1)), ImageAugmentation(seed=0), L.Flatten(), L.Dense(1)]
        )
        still = keras.optimizers.SGD(0.0)
    trainer = Trainer(model, still, "mse", strategy=strategy, **options)
    data = images(8), np.zeros((8, 1), "float32")
    history = trainer.fit(data, batch_size=8, epochs=4, verbose=0).history
    assert len(set(history["loss"])) == 4
    # In evaluation nothing is drawn.
    assert trainer.evaluate(data) == trainer.evaluate(data)


def test_a_saved_layer_is_the_same(tmp_path):
    layer = ImageAugmentation(flip=False, degrees=5.0, shift=0.1, fill_mode="constant", seed=3)
    model = keras.Sequential([keras.Input((20, 20, 1)), layer])
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(copy(images(), training=True), model(images(), training=True))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="`degrees`"):
        ImageAugmentation(degrees=200)
    with pytest.raises(ValueError, match="`shift`"):
        ImageAugmentation(shift=20)
