"""Curvature of one network beside another library's: the same weights, the same images.

    python scripts/compare_hessian.py export c1.npz       keras-sharp's numbers; writes c1.npz
    python scripts/compare_hessian.py compare c1.npz      curvlinops' numbers, in PyTorch

The second half needs an environment of its own with `pip install curvlinops-for-pytorch scipy`;
nothing of this project is imported there. C1 is trained for one epoch on CIFAR-10, to be away from
its initial weights; the loss is the mean cross-entropy of 1,024 training images, with
BatchNormalization's moving statistics. A file that is there already keeps its weights and images.

Two losses agree within 1e-5 of their size. Two eigenvalues agree if they are no further apart than
their residuals add up to, as each is within its residual of an eigenvalue of the Hessian; a
residual counts as no less than 1e-4 of its eigenvalue, which is what both solvers are asked for.
Two traces agree within three standard errors of their difference. `compare` says which numbers
agree, and ends with 1 if any differs.
"""

import argparse
import os
import sys

import numpy as np

IMAGES, PAIRS, PROBES, SEED = 1024, 3, 30, 0
TOLERANCE = 1e-4  # of both solvers, relative to each eigenvalue
LOSS_TOLERANCE = 1e-5  # one library adds up in float32
FOUND = "keras_sharp/"  # the numbers' names in the file begin so
EPSILON = 1e-5  # of BatchNormalization, as in the paper's networks here; Keras's own is 1e-3


def export(file: str, data_dir: str | None) -> None:
    """Prints the top eigenvalues and the trace, and adds them to the file.

    Trains C1 first and writes the file, if it is not there.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import keras_sharp

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras_sharp.networks.C1(momentum=0.9)
    names = [variable.path for variable in model.weights]
    if not os.path.exists(file):
        data = keras_sharp.datasets.load("cifar10", data_dir=data_dir)
        trainer = keras_sharp.training.Trainer(model, "adam", loss)
        trainer.fit((data.x_train, data.y_train), batch_size=256, seed=SEED, verbose=2)
        arrays = dict(zip(names, model.get_weights(), strict=True))
        order = [variable.path for variable in model.trainable_variables]
        images = {"x": data.x_train[:IMAGES], "y": data.y_train[:IMAGES]}
        write(file, {"order": np.array(order), **images, **arrays})
    with np.load(file) as stored:
        arrays = dict(stored)
    model.set_weights([arrays[name] for name in names])

    objective = keras_sharp.Objective(model, (arrays["x"], arrays["y"]), loss, batch_size=256)
    found = {"loss": objective.value()}
    eigen = keras_sharp.hessian_eigenvalues(objective, k=PAIRS, tolerance=TOLERANCE, seed=SEED)
    found |= {"eigenvalues": eigen.eigenvalues, "residuals": eigen.residuals}
    trace = keras_sharp.hessian_trace(objective, probes=PROBES, seed=SEED)
    found |= {"trace": trace.value, "standard_error": trace.standard_error}
    show(found)
    print(f"({eigen.products} and {trace.products} products)")
    write(file, arrays | {FOUND + name: np.asarray(value) for name, value in found.items()})


def write(file: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file .npz, whole or not at all."""
    with open(f"{file}.part", "wb") as stream:
        np.savez(stream, **arrays)
    os.replace(f"{file}.part", file)


def show(found: dict) -> None:
    """Prints the numbers of one library."""
    print(f"loss {found['loss']:.6f}")
    for value, residual in zip(found["eigenvalues"], found["residuals"], strict=True):
        print(f"eigenvalue {value:.4f}, residual {residual:.2g}")
    print(f"trace {found['trace']:.2f} ± {found['standard_error']:.2g}")


def compare(file: str) -> int:
    """Sets what curvlinops and SciPy find beside what the file holds; returns 1 if it differs."""
    with np.load(file) as stored:
        arrays = dict(stored)
    keras_sharp = {
        name.removeprefix(FOUND): arrays.pop(name) for name in list(arrays) if FOUND in name
    }
    if not keras_sharp:
        raise SystemExit(
            f"{file} holds weights and images, and no numbers to compare with: run "
            f"`compare_hessian.py export {file}` first, which measures and adds them."
        )
    print("keras-sharp")
    show(keras_sharp)
    print("curvlinops")
    curvlinops = measure_torch(arrays)
    show(curvlinops)
    verdicts = agreement(keras_sharp, curvlinops)
    for name, apart, allowed in verdicts:
        word = "agree" if apart <= allowed else "differ"
        print(f"{name}: {word}, {apart:.2g} apart, {allowed:.2g} allowed")
    return 0 if all(apart <= allowed for _, apart, allowed in verdicts) else 1


def agreement(one: dict, other: dict) -> list[tuple[str, float, float]]:
    """Returns of each number its name, how far apart the two are, and how far they may be."""
    verdicts = [
        ("loss", abs(one["loss"] - other["loss"]), LOSS_TOLERANCE * abs(one["loss"])),
    ]
    bounds = [
        np.maximum(found["residuals"], TOLERANCE * np.abs(found["eigenvalues"]))
        for found in (one, other)
    ]
    apart = np.abs(one["eigenvalues"] - other["eigenvalues"])
    for number, (distance, allowed) in enumerate(zip(apart, sum(bounds), strict=True), start=1):
        verdicts.append((f"eigenvalue {number}", distance, allowed))
    error = np.hypot(one["standard_error"], other["standard_error"])
    return [*verdicts, ("trace", abs(one["trace"] - other["trace"]), 3 * error)]


def measure_torch(arrays: dict[str, np.ndarray]) -> dict:
    """Builds C1 in PyTorch from weights and images, and returns what curvlinops and SciPy find."""
    import scipy.sparse.linalg
    import torch
    from curvlinops import HessianLinearOperator

    torch.manual_seed(SEED)
    order = [str(name) for name in arrays["order"]]
    stored = {name: torch.from_numpy(each) for name, each in arrays.items() if name != "order"}
    model = make_torch(stored, order)
    x, y = stored["x"].permute(0, 3, 1, 2).contiguous(), stored["y"].long()
    loss = torch.nn.CrossEntropyLoss()
    with torch.no_grad():
        found = {"loss": loss(model(x), y).item()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, loss, parameters, [(x, y)]).to_scipy()
    start = np.random.default_rng(SEED).standard_normal(operator.shape[0]).astype("float32")
    values, vectors = scipy.sparse.linalg.eigsh(
        operator, PAIRS, which="LA", v0=start, tol=TOLERANCE
    )
    order = np.argsort(-values)
    values, vectors = values[order].astype("float64"), vectors[:, order]
    residuals = [
        np.linalg.norm(operator @ vector - value * vector)
        for value, vector in zip(values, vectors.T, strict=True)
    ]
    found |= {"eigenvalues": values, "residuals": np.array(residuals)}
    # Most of Hutchinson's noise is that of the top eigenvectors, whose share is known.
    random, samples = np.random.default_rng(SEED), []
    for _ in range(PROBES):
        probe = random.choice([-1.0, 1.0], operator.shape[0])
        probe = (probe - vectors @ (vectors.T @ probe)).astype("float32")
        samples.append(float(probe @ (operator @ probe)))
    error = np.std(samples, ddof=1) / np.sqrt(PROBES)
    return found | {"trace": values.sum() + np.mean(samples), "standard_error": error}


def make_torch(stored: dict, order: list[str]):
    """Returns C1 in PyTorch with Keras's weights, BatchNormalization in inference mode."""
    import torch
    from torch.nn import functional

    class C1(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList([stored[name].clone() for name in order])
            statistics = [name for name in stored if name.split("/")[-1].startswith("moving_")]
            self.statistics = [stored[name] for name in statistics]

        def forward(self, x):
            weights, statistics = iter(self.weights), iter(self.statistics)

            def normalised(x):
                gamma, beta = next(weights), next(weights)
                mean, variance = next(statistics), next(statistics)
                return functional.batch_norm(x, mean, variance, gamma, beta, eps=EPSILON)

            for _ in range(2):
                kernel, bias = next(weights), next(weights)  # Keras: height, width, in, out
                x = functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=2)
                x = functional.relu(normalised(x))
                # Keras pads "same" at the end first: one row and one column here.
                x = functional.pad(x, (0, 1, 0, 1), value=-torch.inf)
                x = functional.max_pool2d(x, 3, 2)
            x = x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens with the channels last
            for _ in range(2):
                kernel, bias = next(weights), next(weights)
                x = functional.relu(normalised(x @ kernel + bias))
            kernel, bias = next(weights), next(weights)
            return x @ kernel + bias

    return C1().eval()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("half", choices=("export", "compare"))
    parser.add_argument("file", help="where weights and images are exchanged, .npz")
    parser.add_argument("--data-dir", help="folder of prepared data; default TFDS_DATA_DIR")
    settings = parser.parse_args()
    if settings.half == "export":
        export(settings.file, settings.data_dir)
        return 0
    return compare(settings.file)


if __name__ == "__main__":
    sys.exit(main())
