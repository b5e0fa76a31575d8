import keras
import numpy as np
import pytest

from keras_sharp.schedules import Scaled, linear_scaling, square_root_scaling

schedules = keras.optimizers.schedules


def test_numbers():
    assert linear_scaling(0.1, 8192, 256) == pytest.approx(3.2)
    assert square_root_scaling(0.1, 8192, 128) == pytest.approx(0.8)
    for scaling in (linear_scaling, square_root_scaling):
        assert scaling(0.1, 96, 96) == 0.1
        assert scaling(0.1, 64, 256) == pytest.approx(0.1 / (4 if scaling is linear_scaling else 2))


@pytest.mark.parametrize(("scaling", "factor"), [(linear_scaling, 4), (square_root_scaling, 2)])
def test_schedules(scaling, factor):
    decay = schedules.ExponentialDecay(0.1, 1, 0.5)
    scaled = scaling(decay, 1024, 256)
    for step in range(3):
        assert float(scaled(step)) == pytest.approx(factor * 0.1 * 0.5**step)
    again = schedules.deserialize(schedules.serialize(scaled))
    assert isinstance(again, Scaled)
    assert again.get_config() == scaled.get_config()
    assert float(again(1)) == float(scaled(1))
    np.testing.assert_allclose(keras.optimizers.SGD(scaled).learning_rate.numpy(), 0.1 * factor)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-8, 8)])
def test_batch_sizes_must_be_positive(sizes):
    for scaling in (linear_scaling, square_root_scaling):
        with pytest.raises(ValueError, match="batch_size` must be positive. Received"):
            scaling(0.1, *sizes)
