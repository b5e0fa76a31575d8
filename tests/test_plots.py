"""What is drawn, where, and by what name; not how it looks."""

import ast
import pathlib
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_sharp import plots
from keras_sharp.results.landscape import PathResult, SurfaceResult


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a plot must not show itself"))
    yield
    plt.close("all")


def a_path(test=True, accuracy=True):
    alphas = np.linspace(-1, 2, 25)

    def curve(values, wanted):
        return values if wanted else None

    return PathResult(
        alphas=alphas,
        train_loss=alphas**2 + 0.1,
        train_accuracy=curve(1 - alphas**2 / 5, accuracy),
        test_loss=curve(alphas**2 + 0.5, test),
        test_accuracy=curve(0.9 - alphas**2 / 5, test and accuracy),
        distance=1.0,
        kind="linear",
        batch_norm="batch",
        status="",
        evaluations=50,
        seconds=0.0,
        objective={},
        test_objective=None,
        versions={},
    )


def a_surface(path=False, line=False, lowest=0.5):
    x, y = np.linspace(-1, 3, 9), np.linspace(-2, 2, 7)
    return SurfaceResult(
        x=x,
        y=None if line else y,
        loss=x**2 + lowest if line else x[:, None] ** 2 + 3 * y[None, :] ** 2 + lowest,
        accuracy=None,
        centre_loss=lowest,
        path=np.array([[2.0, 1.0], [1.0, -1.0], [0.0, 0.0]]) if path else None,
        explained=np.array([0.8, 0.15]) if path else None,
        directions="random",
        norms=np.ones(2),
        cosine=0.0,
        seed=0,
        cache=None,
        status="",
        evaluations=0,
        seconds=0.0,
        objective={},
        versions={},
    )


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def ydata(ax, name):
    return lines(ax)[name].get_ydata()


# -- paths ---------------------------------------------------------------------------------------


def test_path_has_loss_on_the_left_and_accuracy_on_the_right():
    result = a_path()
    left, right = plots.path(result)
    np.testing.assert_array_equal(ydata(left, "train loss"), result.train_loss)
    np.testing.assert_array_equal(ydata(left, "test loss"), result.test_loss)
    np.testing.assert_array_equal(ydata(right, "train accuracy"), 100 * result.train_accuracy)
    np.testing.assert_array_equal(ydata(right, "test accuracy"), 100 * result.test_accuracy)
    for ax, part, style in ((left, "train loss", "-"), (right, "test accuracy", "--")):
        np.testing.assert_array_equal(lines(ax)[part].get_xdata(), result.alphas)
        assert lines(ax)[part].get_linestyle() == style
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy (%)")
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["train loss", "test loss", "train accuracy", "test accuracy"]


def test_path_takes_axes_and_what_it_returned():
    figure, ax = plt.subplots()
    pair = plots.path(a_path(test=False), ax)
    assert pair[0] is ax and len(figure.axes) == 2
    again = plots.path(a_path(test=False), pair, label="other", color="black", log=True)
    assert again == pair and len(figure.axes) == 2
    assert set(lines(ax)) == {"train loss", "other train loss"}
    assert lines(ax)["other train loss"].get_color() == "black"
    assert ax.get_yscale() == "log"


def test_path_without_accuracy_hides_the_right_axis():
    _, right = plots.path(a_path(accuracy=False))
    assert not right.lines and not right.get_yaxis().get_visible()


# -- surfaces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_contours_run_through_points_of_their_level(log):
    result = a_surface(path=True)
    ax = plots.surface(result, levels=12, log=log)
    (contours,) = ax.collections
    assert len(contours.levels) == 12
    steps = np.diff(np.log(contours.levels) if log else contours.levels)
    np.testing.assert_allclose(steps, steps[0])
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        # Straight between grid points, of a quadratic: only near the level.
        x, y = path.vertices.T
        assert x.size and np.max(np.abs(x**2 + 3 * y**2 + 0.5 - level)) < 0.5
    trajectory = next(line for line in ax.lines if line.get_xdata().size == 3)
    np.testing.assert_array_equal(trajectory.get_xydata(), result.path)
    assert ax.get_xlabel() == "first component (80.0% of the variance)"
    assert ax.get_ylabel() == "second component (15.0% of the variance)"


def test_surface_of_one_direction_is_a_curve():
    result = a_surface(line=True)
    ax = plots.surface(result)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([result.x, result.loss], 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first direction", "loss")


def test_surface_in_three_dimensions():
    ax = plots.surface_3d(a_surface(path=True), log=True)
    assert ax.name == "3d" and "log" in ax.get_zlabel()
    x, y, z = next(line.get_data_3d() for line in ax.lines if len(line.get_data_3d()[0]) == 3)
    np.testing.assert_array_equal((x, y), a_surface(path=True).path.T)
    # The points are on the grid or half-way between its points.
    np.testing.assert_allclose(z[[0, 2]], np.log10([4 + 3 + 0.5, 0.5]), atol=0.1)


def test_surfaces_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="`log`"):
        plots.surface(a_surface(lowest=0.0), log=True)
    with pytest.raises(ValueError, match="`log`"):
        plots.surface_3d(a_surface(lowest=0.0), log=True)
    with pytest.raises(ValueError, match="3d"):
        plots.surface_3d(a_surface(), plt.figure().add_subplot())
    with pytest.raises(ValueError, match="two directions"):
        plots.surface_3d(a_surface(line=True))


# -- spectra -------------------------------------------------------------------------------------


def test_spectrum():
    def density(grid):
        return np.exp(-0.5 * grid**2)

    def own_grid():
        return np.linspace(-3, 3, 50)

    result = SimpleNamespace(density=density, grid=own_grid)
    ax = plots.spectrum(result, eigenvalues=[2.0, 1.0], label="layer")
    np.testing.assert_array_equal(lines(ax)["layer"].get_xdata(), own_grid())
    np.testing.assert_array_equal(ydata(ax, "layer"), density(own_grid()))
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [2.0, 1.0])
    assert ax.get_yscale() == "log"
    grid = np.linspace(0, 1, 5)
    other = plots.spectrum(result, grid=grid, log=False)
    np.testing.assert_array_equal(other.lines[0].get_xdata(), grid)
    assert other is not ax and other.get_yscale() == "linear"


def test_eigenvalues_from_the_largest_down_with_their_residuals():
    result = SimpleNamespace(eigenvalues=np.array([1.0, 5.0]), residuals=np.array([0.1, 0.4]))
    ax = plots.eigenvalues(result)
    points, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(points.get_xydata(), [[1, 5], [2, 1]])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[4.6, 5.4], [0.9, 1.1]])
    assert plots.eigenvalues([3.0, 1.0], ax) is ax


# -- sharpness and training ----------------------------------------------------------------------


def test_batch_size_sweep():
    accuracy = np.array([[0.9, 0.8], [0.7, 0.7]])
    left, right = plots.batch_size_sweep([32, 512], accuracy, [1.0, 40.0], log=True)
    points, _, (bars,) = left.containers[0]
    np.testing.assert_allclose(points.get_xydata(), [[32, 85], [512, 70]])
    spread = 100 * np.std([0.9, 0.8], ddof=1)
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [85 - spread, 85 + spread])
    np.testing.assert_array_equal(right.containers[0][0].get_ydata(), [1, 40])
    assert left.get_xscale() == "log" and right.get_yscale() == "log"
    assert (left.get_ylabel(), right.get_ylabel()) == ("test accuracy (%)", "sharpness")


def test_sharpness_against_loss():
    curves = {"small": ([2.0, 0.1], [5.0, 4.0]), "large": ([2.0, 0.1], [5.0, 90.0])}
    ax = plots.sharpness_against_loss(curves)
    np.testing.assert_array_equal(lines(ax)["large"].get_xydata(), [[2, 5], [0.1, 90]])
    assert ax.xaxis_inverted() and ax.get_xscale() == ax.get_yscale() == "log"
    plots.sharpness_against_loss({"middle": ([1.0], [1.0])}, ax, log=False)
    assert ax.xaxis_inverted() and ax.get_xscale() == "linear"


def test_training_curves():
    history = SimpleNamespace(history={"accuracy": [0.5, 0.9], "val_accuracy": [0.4, 0.6]})
    ax = plots.training_curves({"small": history, "large": {"val_accuracy": [0.3, 0.2, 0.1]}})
    np.testing.assert_array_equal(lines(ax)["small, train"].get_xydata(), [[1, 0.5], [2, 0.9]])
    np.testing.assert_array_equal(ydata(ax, "large, validation"), [0.3, 0.2, 0.1])
    assert lines(ax)["small, validation"].get_linestyle() == "--"
    assert set(lines(ax)) == {"small, train", "small, validation", "large, validation"}
    with pytest.raises(ValueError, match="`quantity`.*accuracy"):
        plots.training_curves({"small": history}, quantity="loss")


# -- start-up ------------------------------------------------------------------------------------


def test_matplotlib_is_not_imported_at_start_up():
    package = pathlib.Path(plots.__file__).parents[1]
    for file in package.rglob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.unparse(statement), file
