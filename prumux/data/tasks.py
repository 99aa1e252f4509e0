"""The tasks known by name: GLUE's nine, NER and the two embedded ones, with their columns, labels and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prumux.errors import UserError, did_you_mean

GLUE_HUB_ID = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """What is needed to load and score one task.

    ``label_names`` is None for regression and for ``tokens`` (a tag per word), whose tags the data
    names. ``file_labels`` maps the label strings of GLUE's own files to those names.
    ``file_columns`` are the names in GLUE's own files of the text columns and then of the label column; a file without
    a header line lists all its columns in ``headerless_columns``.
    """

    name: str
    text_columns: tuple[str, ...]  # names on the hub: one sentence or a pair
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...] = ("accuracy",)
    tokens: bool = False
    hub_config: str | None = (
        None  # configuration of GLUE_HUB_ID, or a data set with tokens; None: not on the hub
    )
    hub_validation_split: str = "validation"
    folder: str | None = None  # folder in GLUE's own file layout; None: no such files
    file_columns: tuple[str, ...] = ()
    file_labels: Mapping[str, str] = field(default_factory=dict)
    headerless_columns: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ("train.tsv",)  # the first that exists is read
    validation_files: tuple[str, ...] = ("dev.tsv",)

    @property
    def main_metric(self) -> str:
        """The metric by which the best model is chosen."""
        return self.metrics[0]

    @property
    def is_regression(self) -> bool:
        return self.label_names is None and not self.tokens

    @property
    def is_embedded(self) -> bool:
        """Generated in the package: needs neither files nor network."""
        return self.hub_config is None


def _identity(*names: str) -> dict[str, str]:
    return {name: name for name in names}


TAG_METRICS = ("f1", "precision", "recall", "token_accuracy")  # of entities (CoNLL's), and of words
_NLI = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")

_TASKS = (
    Task(
        name="MNLI",
        hub_config="mnli",
        hub_validation_split="validation_matched",
        folder="MNLI",
        text_columns=("premise", "hypothesis"),
        file_columns=("sentence1", "sentence2", "gold_label"),
        label_names=_NLI,
        file_labels=_identity(*_NLI),
        validation_files=("dev_matched.tsv",),
    ),
    Task(
        name="QNLI",
        hub_config="qnli",
        folder="QNLI",
        text_columns=("question", "sentence"),
        file_columns=("question", "sentence", "label"),
        label_names=_TWO_WAY,
        file_labels=_identity(*_TWO_WAY),
    ),
    Task(
        name="QQP",
        hub_config="qqp",
        folder="QQP",
        text_columns=("question1", "question2"),
        file_columns=("question1", "question2", "is_duplicate"),
        label_names=("not_duplicate", "duplicate"),
        file_labels={"0": "not_duplicate", "1": "duplicate"},
        metrics=("accuracy", "f1"),
    ),
    Task(
        name="SST-2",
        hub_config="sst2",
        folder="SST-2",
        text_columns=("sentence",),
        file_columns=("sentence", "label"),
        label_names=("negative", "positive"),
        file_labels={"0": "negative", "1": "positive"},
    ),
    Task(
        name="MRPC",
        hub_config="mrpc",
        folder="MRPC",
        text_columns=("sentence1", "sentence2"),
        file_columns=("#1 String", "#2 String", "Quality"),
        label_names=("not_equivalent", "equivalent"),
        file_labels={"0": "not_equivalent", "1": "equivalent"},
        metrics=("accuracy", "f1"),
        train_files=("train.tsv", "msr_paraphrase_train.txt"),
        validation_files=("dev.tsv", "msr_paraphrase_test.txt"),
    ),
    Task(
        name="RTE",
        hub_config="rte",
        folder="RTE",
        text_columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2", "label"),
        label_names=_TWO_WAY,
        file_labels=_identity(*_TWO_WAY),
    ),
    Task(
        name="CoLA",
        hub_config="cola",
        folder="CoLA",
        text_columns=("sentence",),
        file_columns=("sentence", "label"),
        headerless_columns=("source", "label", "original_label", "sentence"),
        label_names=("unacceptable", "acceptable"),
        file_labels={"0": "unacceptable", "1": "acceptable"},
        metrics=("matthews_correlation",),
    ),
    Task(
        name="STS-B",
        hub_config="stsb",
        folder="STS-B",
        text_columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2", "score"),
        label_names=None,
        metrics=("pearson", "spearmanr"),
    ),
    Task(
        name="WNLI",
        hub_config="wnli",
        folder="WNLI",
        text_columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2", "label"),
        label_names=("not_entailment", "entailment"),
        file_labels={"0": "not_entailment", "1": "entailment"},
    ),
    Task(
        name="NER",
        hub_config="lhoestq/conll2003",  # CoNLL-2003 as Parquet files
        folder="NER",
        text_columns=("tokens",),
        label_names=None,
        metrics=TAG_METRICS,
        tokens=True,
    ),
    Task(name="toy", text_columns=("text",), label_names=("negative", "positive")),
    Task(name="toy-nli", text_columns=("text", "text_pair"), label_names=_NLI),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def get_task(name: str) -> Task:
    """The task of that name; case, hyphens and underscores do not matter (``sst2`` is ``SST-2``).

    Raises:
        UserError: no such task; the message lists the choices.
    """
    by_key = {_key(known): task for known, task in TASKS.items()} | {"conll2003": TASKS["NER"]}
    if (key := _key(str(name))) in by_key:
        return by_key[key]
    hint = did_you_mean(key, {known: task.name for known, task in by_key.items()})
    raise UserError(
        f"unknown task '{name}': {hint}choose one of {', '.join(TASKS)}, "
        "or give your own data with --train_file and --validation_file"
    )
