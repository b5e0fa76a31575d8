"""Which batch size? A search for the largest batch that costs no accuracy."""

from keras_sharp.tuner.find_batch import FindBatchResult, find_batch
from keras_sharp.tuner.recommendation import Recommendation
from keras_sharp.tuner.report import report
from keras_sharp.tuner.search import search
from keras_sharp.tuner.space import Space
from keras_sharp.tuner.supervise import supervise

__all__ = [
    "FindBatchResult",
    "Recommendation",
    "Space",
    "find_batch",
    "report",
    "search",
    "supervise",
]
