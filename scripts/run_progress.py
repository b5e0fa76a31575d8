"""What of an experiment is left to do, how long it will take, and a progress bar that says so."""

import collections
import datetime
import statistics
import time

import keras
import rich.console
import rich.progress
import rich.text

Kind = tuple[str, str]


def make_console() -> rich.console.Console:
    """Returns a console. Tables cut to 80 columns cannot be read, and a log file has no width."""
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console


class Plan:
    """Counts the units of work that are left, and times those that are done.

    A kind of work is a pair, the network and what is done with it; a unit is an epoch or a
    measurement.
    """

    def __init__(self):
        self.left: collections.Counter[Kind] = collections.Counter()
        self.seconds: dict[Kind, list[float]] = collections.defaultdict(list)

    def done(self, kind: Kind, seconds: float) -> None:
        """Takes note of a unit that is done."""
        self.seconds[kind].append(seconds)
        self.left[kind] -= 1

    def drop(self, network: str) -> None:
        """Forgets what is left of a network."""
        for kind in [kind for kind in self.left if kind[0] == network]:
            del self.left[kind]

    def is_done(self, network: str) -> bool:
        """Returns whether nothing is left of a network."""
        return not any(count > 0 for kind, count in self.left.items() if kind[0] == network)

    def time_left(self) -> str:
        """Returns the time left, from the units done; "more than" where a kind was not done yet.

        The first unit of a kind is slower, and counts only while it is the only one.
        """
        seconds, unknown = 0.0, False
        for kind, count in self.left.items():
            known = self.seconds.get(kind)
            if known:
                seconds += count * statistics.fmean(known[1:] or known)
            elif count > 0:
                unknown = True
        if unknown and seconds < 1:
            return "time left not known yet"
        left = datetime.timedelta(seconds=round(seconds))
        return f"{'more than' if unknown else 'about'} {left} left"


class _SinceStart(rich.progress.ProgressColumn):
    """Time since the start. Rich's own column stops when its bar is full for the first time."""

    def __init__(self):
        super().__init__()
        self._began = time.perf_counter()

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        passed = datetime.timedelta(seconds=round(time.perf_counter() - self._began))
        return rich.text.Text(f"{passed} passed,")


class Display:
    """A progress bar; where there is no terminal, a line now and then."""

    def __init__(self, plan: Plan, console: rich.console.Console):
        self.plan, self.console = plan, console
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[detail]}"),
            _SinceStart(),
            rich.progress.TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1, detail="", left="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a sentence that stays, above the bar."""
        self.console.print(text, markup=False)

    def show(self, what: str, detail: str, done: int = 0, total: int | None = None) -> None:
        """Shows what is done now, and how much of it; without a total the bar only moves."""
        left = self.plan.time_left()
        self._bar.update(
            self._task, description=what, detail=detail, completed=done, total=total, left=left
        )
        a_fifth = total is not None and 0 < done < total and done % -(-total // 5) == 0
        if a_fifth and not self.console.is_terminal:
            self.say(f"{what}: {detail}, {left}")


class ShowEpochs(keras.callbacks.Callback):
    """Tells the plan and the display about every epoch.

    Args:
        display: The display.
        kind: The kind of work an epoch is.
        what: What is trained, for the display.
        epochs: Epochs of this training; the plan counts all of them as left.
    """

    def __init__(self, display: Display, kind: Kind, what: str, epochs: int):
        super().__init__()
        self.display, self.kind, self.what, self.epochs = display, kind, what, epochs
        self._behind = display.plan.left[kind] - epochs

    def on_epoch_begin(self, epoch, logs=None):
        # Of a training that was resumed, less is left than of one that begins.
        self.display.plan.left[self.kind] = self._behind + self.epochs - epoch
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.display.plan.done(self.kind, time.perf_counter() - self._began)
        detail = f"epoch {epoch + 1}/{self.epochs}, loss {logs['loss']:.3g}"
        self.display.show(self.what, detail, epoch + 1, self.epochs)

    def finish(self) -> None:
        """Counts the training as done, also one of which no epoch was left."""
        self.display.plan.left[self.kind] = self._behind
