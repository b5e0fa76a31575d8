"""Curvature of one network beside another library's: the same weights, the same images.

    python scripts/compare_hessian.py export c1.npz       keras-sharp's numbers; writes c1.npz
    python scripts/compare_hessian.py compare c1.npz      curvlinops' numbers, in PyTorch

The second half needs an environment of its own with `pip install curvlinops-for-pytorch scipy`;
nothing of this project is imported there. C1 is trained for one epoch on CIFAR-10, to be away from
its initial weights; the loss is the mean cross-entropy of 1,024 training images, with
BatchNormalization's moving statistics.
"""

import argparse
import os

import numpy as np

IMAGES, PAIRS, MATVECS, SEED = 1024, 3, 90, 0
EPSILON = 1e-5  # of BatchNormalization, as in the paper's networks here; Keras's own is 1e-3


def export(file: str, data_dir: str | None) -> None:
    """Prints the top eigenvalues and the trace; trains C1 first if the file is not there."""
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
        np.savez(file, order=order, **images, **arrays)
    with np.load(file) as arrays:
        model.set_weights([arrays[name] for name in names])
        images = arrays["x"], arrays["y"]

    objective = keras_sharp.Objective(model, images, loss, batch_size=256)
    print(f"loss {objective.value():.6f}")
    found = keras_sharp.hessian_eigenvalues(objective, k=PAIRS, tolerance=1e-4, seed=SEED)
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        print(f"eigenvalue {value:.4f}, residual {residual:.2g}")
    trace = keras_sharp.hessian_trace(objective, probes=MATVECS // 3, seed=SEED)
    print(f"trace {trace.value:.2f} ± {trace.standard_error:.2g} ({trace.products} products)")


def compare(file: str) -> None:
    """Builds C1 in PyTorch from the file, and prints what curvlinops and SciPy find."""
    import scipy.sparse.linalg
    import torch
    from curvlinops import HessianLinearOperator

    torch.manual_seed(SEED)
    with np.load(file) as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "order"}
        order = [str(name) for name in arrays["order"]]
    model = make_torch(stored, order)
    x, y = stored["x"].permute(0, 3, 1, 2).contiguous(), stored["y"].long()
    loss = torch.nn.CrossEntropyLoss()
    with torch.no_grad():
        print(f"loss {loss(model(x), y):.6f}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, loss, parameters, [(x, y)]).to_scipy()
    values, vectors = scipy.sparse.linalg.eigsh(operator, PAIRS, which="LA", tol=1e-4)
    for value, vector in sorted(zip(values, vectors.T, strict=True), key=lambda pair: -pair[0]):
        residual = np.linalg.norm(operator @ vector - value * vector)
        print(f"eigenvalue {value:.4f}, residual {residual:.2g}")
    random, samples = np.random.default_rng(SEED), []
    for _ in range(MATVECS):
        probe = random.choice([-1.0, 1.0], operator.shape[0]).astype("float32")
        samples.append(probe @ (operator @ probe))
    error = np.std(samples, ddof=1) / np.sqrt(MATVECS)
    print(f"trace {np.mean(samples):.2f} ± {error:.2g} (Hutchinson, {MATVECS} products)")


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("half", choices=("export", "compare"))
    parser.add_argument("file", help="where weights and images are exchanged, .npz")
    parser.add_argument("--data-dir", help="folder of prepared data; default TFDS_DATA_DIR")
    settings = parser.parse_args()
    if settings.half == "export":
        export(settings.file, settings.data_dir)
    else:
        compare(settings.file)


if __name__ == "__main__":
    main()
