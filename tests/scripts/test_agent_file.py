import agent_file
import numpy as np
import pytest
import tensorflow as tf


def test_what_is_not_finite_does_not_replace_what_is(tmp_path):
    file = tmp_path / "agent" / "agent.npz"
    weights, place = tf.Variable([1.0, 2.0]), tf.constant([np.inf, 3.0])
    history = [{"loss": 0.5, "success": np.nan}]
    agent_file.save(file, [weights], history, [place])
    weights.assign([np.nan, 0.0])
    with pytest.raises(FloatingPointError, match="are not saved"):
        agent_file.save(file, [weights], history, [place])
    assert agent_file.restore(file, [weights], ["loss", "success"])[0]["loss"] == 0.5
    np.testing.assert_array_equal(weights, [1, 2])
    found = tf.Variable([0.0, 0.0])
    agent_file.restore(file, [weights, found], ["loss", "success"])
    np.testing.assert_array_equal(found, place)
    with pytest.raises(SystemExit, match="is of other networks"):
        agent_file.restore(file, [tf.Variable([1.0])], ["loss", "success"])
    with pytest.raises(SystemExit, match="is of other networks"):
        agent_file.restore(file, [weights, found, found], ["loss", "success"])
