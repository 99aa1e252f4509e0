"""Tasks are found by any spelling of their name, and an unknown name tells the choices."""

from __future__ import annotations

import pytest

from prumux.data.tasks import TAG_METRICS, TASKS, get_task
from prumux.errors import UserError
from prumux.evaluation.metrics import METRICS


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("sst2", "SST-2"),
        ("SST-2", "SST-2"),
        ("sst-2", "SST-2"),
        ("stsb", "STS-B"),
        ("STS-B", "STS-B"),
        ("mnli", "MNLI"),
        ("cola", "CoLA"),
        ("QQP", "QQP"),
        ("Toy", "toy"),
        ("toy-nli", "toy-nli"),
        ("toy_nli", "toy-nli"),
    ],
)
def test_any_spelling(given: str, name: str) -> None:
    assert get_task(given).name == name


def test_unknown_name_lists_choices_and_the_closest() -> None:
    with pytest.raises(UserError, match="unknown task 'sst3'") as error:
        get_task("sst3")
    message = str(error.value)
    assert "did you mean 'SST-2'?" in message
    assert all(name in message for name in TASKS)
    assert "--train_file" in message


def test_the_tasks_of_the_issue_are_all_there() -> None:
    glue = {"MNLI", "QNLI", "QQP", "SST-2", "MRPC", "RTE", "CoLA", "STS-B", "WNLI"}
    assert set(TASKS) == glue | {"NER", "toy", "toy-nli"}
    assert {task.name for task in TASKS.values() if not task.is_embedded} == glue | {"NER"}
    assert [task.name for task in TASKS.values() if task.tokens] == ["NER"]


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_each_task_is_consistent(task) -> None:
    assert len(task.text_columns) in (1, 2)
    assert set(task.metrics) <= set(TAG_METRICS if task.tokens else METRICS)
    assert task.main_metric == task.metrics[0]
    if not task.is_embedded and not task.tokens:
        assert len(task.file_columns) == len(task.text_columns) + 1
        assert set(task.file_columns) <= set(task.headerless_columns or task.file_columns)
    if task.file_labels:
        assert set(task.file_labels.values()) == set(task.label_names)


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("CoLA", ("matthews_correlation",)),
        ("MRPC", ("accuracy", "f1")),
        ("QQP", ("accuracy", "f1")),
        ("STS-B", ("pearson", "spearmanr")),
        ("MNLI", ("accuracy",)),
        ("WNLI", ("accuracy",)),
    ],
)
def test_metrics_are_those_of_glue(name: str, metrics: tuple[str, ...]) -> None:
    assert get_task(name).metrics == metrics
