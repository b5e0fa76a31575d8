"""The loop around the steps: logs, callbacks, validation and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.training import SAM, Trainer

CALLBACKS = keras.callbacks


@pytest.fixture
def trainer(net, loss):
    def make(optimizer="sgd", strategy=None, **options):
        model = net(strategy)
        options = {"jit_compile": False} | options
        return Trainer(model, optimizer, loss, metrics=["accuracy"], **options)

    return make


class Diary(CALLBACKS.Callback):
    """Writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.entries = []

    def on_epoch_begin(self, epoch, logs=None):
        self.entries.append(("epoch", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.entries.append(("end", epoch, sorted(logs)))

    def on_test_begin(self, logs=None):
        self.entries.append("test")

    def on_train_end(self, logs=None):
        self.entries.append("over")


class BatchDiary(Diary):
    def on_train_batch_begin(self, batch, logs=None):
        self.entries.append(("begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.entries.append(("batch", batch, logs["loss"]))


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def averaged():
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)


def averaged_and_scaled():
    return keras.optimizers.LossScaleOptimizer(averaged())


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("optimizer", [momentum, averaged, averaged_and_scaled])
def test_the_same_steps_as_keras_fit(net, loss, blobs, replicas, optimizer, n):
    """With the whole data in each batch there is one order only."""
    strategy = replicas(n)
    ours, theirs = net(strategy), net()
    with strategy.scope():
        trainer = Trainer(ours, optimizer(), loss, metrics=["accuracy"])
    history = trainer.fit(blobs, batch_size=130, epochs=5, validation_data=blobs, verbose=0).history
    theirs.compile(optimizer(), loss, metrics=["accuracy"])
    expected = theirs.fit(*blobs, 130, epochs=5, validation_data=blobs, verbose=0).history
    assert list(history) and set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_loss_weights_and_weighted_metrics_mean_what_they_mean_in_fit(blobs):
    weights = np.linspace(0, 1, 130, dtype="float32")
    losses = {"a": "sparse_categorical_crossentropy", "b": "mse"}
    options = {
        "loss": losses,
        "loss_weights": {"a": 0.5, "b": 3.0},
        "weighted_metrics": {"a": ["accuracy"], "b": ["mae"]},
    }

    def model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((10,))
        outputs = keras.layers.Dense(3, "softmax", name="a"), keras.layers.Dense(1, name="b")
        return keras.Model(inputs, {o.name: o(inputs) for o in outputs})

    x, y = blobs[0], {"a": blobs[1], "b": blobs[0][:, :1]}
    trainer = Trainer(model(), keras.optimizers.SGD(0.1), **options)
    history = trainer.fit((x, y, weights), batch_size=130, epochs=3, verbose=0).history
    theirs = model()
    theirs.compile(keras.optimizers.SGD(0.1), **options)
    both = dict.fromkeys(y, weights)
    expected = theirs.fit(x, y, 130, epochs=3, sample_weight=both, verbose=0).history
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


def test_evaluation_is_exact_with_an_uneven_end(trainer, loss, blobs, replicas):
    x, y = blobs
    for n in (1, 4):
        trained = trainer(strategy=replicas(n))
        logits = trained.model(x).numpy()
        expected = {"loss": float(loss(y, logits)), "accuracy": np.mean(logits.argmax(1) == y)}
        for batch_size in (32, 129, None):
            assert trained.evaluate(blobs, batch_size=batch_size) == pytest.approx(
                expected, rel=1e-5
            )


def test_metrics_are_equal_on_one_and_four_replicas(net, loss, blobs, replicas):
    x, y = blobs
    histories = []
    for n in (1, 4):
        strategy = replicas(n)
        model = net(strategy)
        with strategy.scope():
            metrics = [
                "accuracy",
                keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
                keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy"),
            ]
        trainer = Trainer(model, "sgd", loss, metrics=metrics)
        model.optimizer.learning_rate = 0.0  # the same weights throughout
        histories.append(trainer.fit(blobs, batch_size=32, epochs=1, verbose=0).history)
    logits = net()(x).numpy()
    assert histories[0]["accuracy"] == histories[1]["accuracy"]
    assert histories[0]["accuracy"][0] == pytest.approx(np.mean(logits.argmax(1) == y), rel=1e-6)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-6, err_msg=name)


def test_callbacks_are_told_what_fit_tells_them(trainer, blobs):
    diary = BatchDiary()
    trained = trainer()
    trained.fit(blobs, batch_size=65, epochs=2, validation_data=blobs, callbacks=[diary], verbose=0)
    names = ["accuracy", "loss", "val_accuracy", "val_loss"]
    events = [e[:2] if e[0] == "batch" else e for e in diary.entries]
    epoch = [("begin", 0), ("batch", 0), ("begin", 1), ("batch", 1), "test"]
    first = [("epoch", 0), *epoch, ("end", 0, names)]
    second = [("epoch", 1), *epoch, ("end", 1, names)]
    assert events == [*first, *second, "over"]
    # As in fit, the loss in the logs is the mean so far; `batch_losses` are the losses themselves.
    seen = [e[2] for e in diary.entries if e[0] == "batch"][2:]
    assert seen == pytest.approx([trained.batch_losses[0], trained.batch_losses.mean()], rel=1e-6)


def test_batch_losses_and_results_do_not_depend_on_the_steps_per_call(trainer, blobs):
    losses = []
    for options in ({"steps_per_call": 3}, {"callbacks": [BatchDiary()]}, {}):
        trained = trainer()
        trained.fit(blobs, batch_size=32, epochs=2, verbose=0, **options)
        assert trained.batch_losses.shape == (5,)
        assert trained.batch_losses.dtype == np.float32
        losses.append(trained.batch_losses)
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])


def test_the_order_is_that_of_the_seed(trainer, blobs):
    def losses(**options):
        trained = trainer()
        trained.fit(blobs, batch_size=65, epochs=1, verbose=0, **options)
        return trained.batch_losses

    np.testing.assert_array_equal(losses(seed=1), losses(seed=1))
    assert losses(seed=1)[0] != losses(seed=2)[0]
    assert losses(seed=1)[0] != losses(shuffle=False)[0]
    np.testing.assert_array_equal(losses(seed=1, shuffle=False), losses(seed=2, shuffle=False))


def test_every_example_is_seen_once_an_epoch(replicas):
    x = np.arange(10, dtype="float32")[:, None]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    trainer = Trainer(model, keras.optimizers.SGD(0.0), "mae")
    trainer.fit((x, 0 * x), batch_size=4, epochs=1, verbose=0)
    assert trainer.batch_losses @ [4, 4, 2] == pytest.approx(x.sum())
    assert trainer.batch_losses[0] != np.mean(x[:4])


@pytest.mark.parametrize("n", [1, 2])
def test_keras_callbacks(trainer, blobs, replicas, tmp_path, n):
    with (strategy := replicas(n)).scope():
        optimizer = keras.optimizers.SGD(0.5, use_ema=True)
    trained = trainer(optimizer, strategy)
    callbacks = [
        CALLBACKS.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
        CALLBACKS.ModelCheckpoint(str(tmp_path / "best.keras"), save_best_only=True),
        CALLBACKS.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True),
        CALLBACKS.CSVLogger(str(tmp_path / "log.csv")),
        CALLBACKS.TensorBoard(str(tmp_path / "board")),
        CALLBACKS.SwapEMAWeights(),
        CALLBACKS.TerminateOnNaN(),
        CALLBACKS.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ]
    history = trained.fit(
        blobs, batch_size=65, epochs=3, validation_data=blobs, callbacks=callbacks, verbose=0
    )
    assert history.history["learning_rate"] == [0.5, 0.5, 0.25]
    assert float(trained.model.optimizer.learning_rate.numpy()) == 0.125
    assert (tmp_path / "best.keras").exists() and (tmp_path / "last.weights.h5").exists()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    assert list((tmp_path / "board").rglob("events*"))


def test_early_stopping_stops_and_restores(trainer, blobs, weights):
    stopping = CALLBACKS.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)
    after_first = []
    keep = CALLBACKS.LambdaCallback(
        on_epoch_end=lambda epoch, logs: after_first.append(weights(trained.model))
    )
    trained = trainer()
    history = trained.fit(blobs, batch_size=32, epochs=9, callbacks=[stopping, keep], verbose=0)
    assert history.epoch == [0, 1]  # the loss only falls
    np.testing.assert_array_equal(weights(trained.model), after_first[0])


def test_stop_training_in_the_middle_of_an_epoch(trainer, blobs):
    def stop(batch, logs):
        trained.model.stop_training = batch == 1

    trained = trainer()
    callback = CALLBACKS.LambdaCallback(on_train_batch_end=stop)
    history = trained.fit(blobs, batch_size=32, epochs=9, callbacks=[callback], verbose=0)
    assert history.epoch == [0] and trained.batch_losses.shape == (2,)


def test_the_progress_bar_is_that_of_keras(trainer, blobs, capsys):
    trainer().fit(blobs, batch_size=32, epochs=2, verbose=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed and "5/5" in printed and "accuracy" in printed
    trainer().fit(blobs, batch_size=32, epochs=1, verbose=0)
    assert not capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_with_a_name():
    # The weight is multiplied by 1 - 2 * rate in a step, and the loss is its square.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1.0]])
    ones = np.ones((10, 1), "float32")
    trainer = Trainer(model, keras.optimizers.SGD(0.5e10), "mse")
    with pytest.raises(FloatingPointError, match=r"is inf in epoch 2, step 1, at learning rate 5e"):
        trainer.fit((ones, 0 * ones), batch_size=5, epochs=9, verbose=0)


@pytest.mark.parametrize("n", [1, 2])
def test_a_last_step_that_diverges_stops_before_anyone_takes_its_weights(replicas, tmp_path, n):
    with (strategy := replicas(n)).scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), dense])
        optimizer = keras.optimizers.SGD(3e38)  # the loss is 1, and the weight becomes -inf
    ones = np.ones((10, 1), "float32")
    best = tmp_path / "best.keras"
    trainer = Trainer(model, optimizer, "mse", strategy=strategy)
    with pytest.raises(FloatingPointError, match="weights are not finite in epoch 1, step 1, at l"):
        trainer.fit(
            (ones, 0 * ones),
            batch_size=10,
            callbacks=[CALLBACKS.ModelCheckpoint(str(best))],
            verbose=0,
        )
    assert not best.exists()


def test_frozen_layers_and_a_model_compiled_anew(trainer, blobs):
    trained = trainer()
    trained.fit(blobs, batch_size=65, epochs=1, verbose=0)
    first, last = trained.model.layers[0], trained.model.layers[-1]
    first.trainable = False
    trained.model.compile("adam", "mse")
    kernels = first.kernel.numpy(), last.kernel.numpy()
    history = trained.fit(blobs, batch_size=65, epochs=1, verbose=0).history
    np.testing.assert_array_equal(first.kernel.numpy(), kernels[0])
    assert abs(last.kernel.numpy() - kernels[1]).max() > 0
    assert set(history) == {"loss", "accuracy"}


def test_subclassed_model_without_training_argument_and_unbuilt_layers(loss, blobs, replicas):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])

        def call(self, x):
            return self.inner(x["features"])

    for n in (1, 2):
        with replicas(n).scope():
            model = Subclassed()
        trainer = Trainer(model, "adam", loss)
        data = {"features": blobs[0]}, blobs[1]
        history = trainer.fit(
            data, batch_size=32, epochs=3, validation_data=data, verbose=0
        ).history
        assert history["loss"][-1] < history["loss"][0]


def test_mixed_precision(loss, blobs):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((10,)), *layers])
    finally:
        keras.config.set_dtype_policy("float32")
    trainer = Trainer(model, keras.optimizers.SGD(0.1), loss)
    history = trainer.fit(blobs, batch_size=32, epochs=3, verbose=0).history
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.iterations.numpy() == 15
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    ("layer", "shape", "jitted"),
    [
        (keras.layers.Dense(3), (10,), True),
        (keras.layers.Conv1D(3, 2), (10, 1), False),
        (keras.layers.SeparableConv2D(3, 2), (5, 2, 1), False),
    ],
)
def test_xla_is_used_where_it_pays_on_a_cpu(loss, blobs, layer, shape, jitted):
    tail = [keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input(shape), layer, *tail])
    trainer = Trainer(model, "sgd", loss)
    trainer.fit((blobs[0].reshape(-1, *shape), blobs[1]), batch_size=65, epochs=1, verbose=0)
    graphs = trainer._engine.training.over_indices._list_all_concrete_functions()
    functions = [f for g in graphs for f in g.graph.as_graph_def().library.function]
    assert any(f.attr["_XlaMustCompile"].b for f in functions) is jitted


def expect(message, call, error=ValueError):
    with pytest.raises(error, match=message):
        call()


def test_bad_settings(net, loss, trainer, blobs, replicas):
    expect("`micro_batch` must be an integer of at least 1", lambda: trainer(micro_batch=0))
    expect('`jit_compile` must be True, False or "auto"', lambda: trainer(jit_compile="yes"))
    expect("`patience` must be positive and finite", lambda: trainer(patience=0))
    expect("`gradient` must be an object .*SAM", lambda: trainer(gradient=SAM))
    expect("`communication` must be an object .*'ring'", lambda: trainer(communication="ring"))
    expect(
        "`epochs` must be an integer of at least 1",
        lambda: trainer().fit(blobs, batch_size=1, epochs=0),
    )
    expect(
        "`steps_per_call` must be an integer of at least 1",
        lambda: trainer().fit(blobs, batch_size=9, epochs=1, steps_per_call=0),
    )

    expect(
        "`seed` must be an integer of at least 0",
        lambda: trainer().fit(blobs, batch_size=9, epochs=1, seed=-1),
    )
    expect("`batch_size` must be an integer", lambda: trainer().evaluate(blobs, batch_size=0))

    class OwnSteps(keras.Sequential):
        def train_step(self, data):
            return {}

    expect("must not override `train_step`", lambda: Trainer(OwnSteps(), "sgd", loss))

    class OwnLoss(keras.Sequential):
        def compute_loss(self, **_):
            return 0.0

    expect("must not override `compute_loss`", lambda: Trainer(OwnLoss(), "sgd", loss))
    frozen = net()
    frozen.trainable = False
    expect(
        "must have trainable weights",
        lambda: Trainer(frozen, "sgd", loss).fit(blobs, batch_size=9, epochs=1),
    )


def test_a_model_with_its_own_test_step_trains_but_is_not_evaluated(loss, blobs):
    class OwnTest(keras.Sequential):
        def test_step(self, data):
            return {}

    trainer = Trainer(OwnTest([keras.Input((10,)), keras.layers.Dense(3)]), "sgd", loss)
    trainer.fit(blobs, batch_size=65, verbose=0)
    message = "must not override `test_step` to be evaluated"
    expect(message, lambda: trainer.evaluate(blobs))
    expect(message, lambda: trainer.fit(blobs, batch_size=65, validation_data=blobs))


def with_label(data, label):
    x, y = data
    return x, np.where(np.arange(len(y)) == len(y) - 1, label, y)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("label", "found"), [(3, "0 to 3"), (-1, "-1 to 2")])
def test_labels_that_are_no_class(trainer, blobs, replicas, label, found, n, tmp_path):
    bad = with_label(blobs, label)
    trained = trainer(strategy=replicas(n))
    message = f"Labels must be integers .* labels from {found}, in batch.*outputs of shape"
    file = tmp_path / "checkpoint.npz"
    expect(message, lambda: trained.fit(bad, batch_size=130, checkpoint=file, verbose=0))
    assert not file.exists()
    expect(message, lambda: trained.fit(blobs, batch_size=32, validation_data=bad, verbose=0))
    expect(message, lambda: trained.evaluate(bad))


def test_labels_of_a_pipeline_that_are_no_class(trainer, blobs):
    batches = tf.data.Dataset.from_tensor_slices(with_label(blobs, 3)).batch(32)
    expect(r"Labels must be .* batch(es \d to)? 5", lambda: trainer().fit(batches, verbose=0))
    expect("Labels must be integers", lambda: trainer().evaluate(batches))


def test_labels_of_one_of_two_outputs(blobs):
    inputs = keras.Input((10,))
    outputs = [keras.layers.Dense(n, name=name)(inputs) for name, n in (("b", 1), ("a", 4))]
    model = keras.Model(inputs, outputs)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=9)
    trainer = Trainer(model, "sgd", ["mse", entropy])
    for label in (3, 9):
        x, y = with_label(blobs, label)
        trainer.fit((x, [x[:, :1], y]), batch_size=65, verbose=0)
    x, y = with_label(blobs, 7)
    expect(
        "labels from .*, 0 to 7, in batch.*outputs of shape .*1.*4",
        lambda: trainer.fit((x, [x[:, :1], y]), batch_size=65, verbose=0),
    )


def test_sample_weights_that_leave_nothing_to_average_over(net, blobs):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    trainer = Trainer(net(), "sgd", loss)
    weights = np.zeros(130, "float32")
    expect(
        "`data` must give every loss something to average over. .* add up to 0",
        lambda: trainer.evaluate((*blobs, weights), batch_size=32),
    )
    weights[-1] = 1.0
    alone = trainer.evaluate((blobs[0][-1:], blobs[1][-1:]))
    found = trainer.evaluate((*blobs, weights), batch_size=32)
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-6)


def test_settings_that_do_not_work_on_replicas(net, loss, trainer, replicas):
    strategy = replicas(2)
    expect(
        "`model` must be created inside `with strategy.scope",
        lambda: Trainer(net(), "sgd", loss, strategy=strategy),
    )
    model = net(strategy)
    expect(
        "`optimizer` must be created inside",
        lambda: Trainer(model, keras.optimizers.SGD(), loss),
    )
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        with strategy.scope():
            optimizer = keras.optimizers.SGD(use_ema=option.startswith("ema"), **{option: 2})
        expect(f"`{option}` does not work", lambda: Trainer(model, optimizer, loss))  # noqa: B023
    expect("must not be True on several", lambda: Trainer(model, "sgd", loss, jit_compile=True))


def test_a_model_made_for_one_of_two_gpus(net, loss, monkeypatch):
    gpus = ["GPU:0", "GPU:1"]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpus)
    expect(
        "must be created under a strategy to train on all 2 GPUs",
        lambda: Trainer(net(), "sgd", loss),
    )
    one = tf.distribute.get_strategy()
    assert Trainer(net(), "sgd", loss, strategy=one).strategy is one


def test_the_open_scope_is_taken(net, loss, blobs, replicas):
    with (strategy := replicas(2)).scope():
        trainer = Trainer(net(strategy), "sgd", loss)
    assert trainer.strategy is strategy
    trainer.fit(blobs, batch_size=65, epochs=1, verbose=0)


def test_updates_that_would_be_lost_are_refused(loss, blobs):
    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + keras.random.normal((10,))

    model = keras.Sequential([keras.Input((10,)), Noise(), keras.layers.Dense(3)])
    trainer = Trainer(model, "sgd", loss)
    expect(
        "`keras.random.SeedGenerator` of their own",
        lambda: trainer.fit(blobs, batch_size=65, epochs=1, verbose=0),
    )


def test_metrics_of_layers(loss, blobs, replicas):
    class Size(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.size = keras.metrics.Mean(name="size")

        def call(self, x):
            self.size.update_state(keras.ops.mean(x, axis=1))
            return x

    for n, micro_batch in ((1, None), (1, 7), (4, None)):
        with (strategy := replicas(n)).scope():
            model = keras.Sequential([keras.Input((10,)), Size(), keras.layers.Dense(3)])
        trainer = Trainer(model, "sgd", loss, micro_batch=micro_batch, strategy=strategy)
        history = trainer.fit(blobs, batch_size=32, epochs=2, verbose=0).history
        np.testing.assert_allclose(history["size"], blobs[0].mean(), rtol=1e-4)


def test_a_metric_of_the_model_itself(loss, blobs):
    class Sized(keras.Sequential):
        def __init__(self, layers):
            super().__init__(layers)
            self.size = keras.metrics.Mean(name="size")

        def call(self, x, training=None):
            self.size.update_state(keras.ops.mean(x, axis=1))
            return super().call(x, training=training)

    model = Sized([keras.Input((10,)), keras.layers.Dense(3)])
    history = Trainer(model, "sgd", loss).fit(blobs, batch_size=65, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["size"], blobs[0].mean(), rtol=1e-4)
