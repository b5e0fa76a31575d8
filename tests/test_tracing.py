import tensorflow as tf

from keras_sharp.tracing import traced


class Line:
    def __init__(self, slope):
        self.slope = slope

    def at(self, shift, x):
        return self.slope * x + shift


def test_graphs_of_many_objects_make_tensorflow_warn_of_nothing(caplog):
    caplog.set_level("WARNING", logger="tensorflow")  # scripts lower it
    x = tf.constant(3.0)
    for slope in range(20):
        assert traced(Line(slope).at, 1.0)(x) == slope * 3.0 + 1.0
    assert "retracing" not in caplog.text

    for slope in range(20):  # as the same method of many objects does otherwise
        tf.function(Line(slope).at, autograph=False)(1.0, x)
    assert "retracing" in caplog.text
