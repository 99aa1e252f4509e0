"""Tests of prumux.evaluation.predict: order, filled rows, modes, repeatability, groupings."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prumux import PrumuxConfig, PrumuxForSequenceClassification
from prumux.data.grouping import IGNORE, GroupingCollator, groupings
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError
from prumux.evaluation.predict import evaluate, evaluation_mode, model_device, predict_logits
from prumux.evaluation.report import Settings


class GroupMean(torch.nn.Module):
    """Logits (own first token, mean over the group): shows which rows were neighbours and who was asked."""

    def __init__(self, num_instances: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_instances=num_instances)
        self.dropout = torch.nn.Dropout(0.5)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches: list[dict[str, torch.Tensor]] = []

    def forward(self, **batch: torch.Tensor) -> SimpleNamespace:
        self.batches.append(batch)
        own = batch["input_ids"][:, 0].float() * self.scale
        mean = own.view(-1, self.config.num_instances).mean(1).repeat_interleave(self.config.num_instances)
        return SimpleNamespace(logits=self.dropout(torch.stack([own, mean], dim=1)))


@dataclass
class Data:
    """What evaluate reads of a TaskData."""

    validation: list[dict] | None
    name: str = "stub"
    label_names: list[str] = field(default_factory=lambda: ["a", "b"])
    metrics: tuple[str, ...] = ("accuracy",)
    tokens: bool = False


class Rows(list):
    """A list of rows with columns, as datasets.Dataset has them."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


def rows_of(lengths) -> Rows:
    """Row i starts with token 10 + i and is as long as asked for."""
    return Rows(
        {"input_ids": [10 + i] + [5] * (n - 1), "attention_mask": [1] * n, "labels": i % 2, "length": n}
        for i, n in enumerate(lengths)
    )


@pytest.mark.parametrize("num_instances", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 4, 7, 10])
def test_logits_come_back_in_input_order(tokenizer, num_instances, rows):
    dataset = rows_of([3] * rows)
    collator = GroupingCollator(tokenizer, num_instances)
    order = np.random.default_rng(0).permutation(rows)
    logits = predict_logits(GroupMean(num_instances), dataset, collator, 4, order=order, progress=False)
    assert logits.shape == (rows, 2)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits[:, 0], 10 + np.arange(rows))


def test_order_decides_the_neighbours(tokenizer):
    dataset = rows_of([3] * 4)
    order = np.array([0, 3, 1, 2])
    logits = predict_logits(
        GroupMean(2), dataset, GroupingCollator(tokenizer, 2), 4, order=order, progress=False
    )
    np.testing.assert_array_equal(logits[:, 1], [11.5, 11.5, 11.5, 11.5])
    logits = predict_logits(GroupMean(2), dataset, GroupingCollator(tokenizer, 2), 4, progress=False)
    np.testing.assert_array_equal(logits[:, 1], [10.5, 10.5, 12.5, 12.5])


@pytest.mark.parametrize("rows", [4, 5, 6])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_an_ensemble_puts_a_row_into_several_slots(tokenizer, rows, batch_size):
    """N / K different rows share a group; a row's logits are the mean over its slots."""
    dataset, collator = rows_of([3] * rows), GroupingCollator(tokenizer, 4)
    logits = predict_logits(GroupMean(4), dataset, collator, batch_size, progress=False, ensemble=2)
    np.testing.assert_allclose(logits[:, 0], 10 + np.arange(rows))
    np.testing.assert_allclose(logits[:4, 1], [10.5, 10.5, 12.5, 12.5])
    alone = predict_logits(GroupMean(4), dataset, collator, batch_size, progress=False, ensemble=4)
    np.testing.assert_allclose(alone[:, 1], 10 + np.arange(rows))
    with pytest.raises(UserError, match="an ensemble of 3 does not fill 4 slots evenly: choose from 1, 2, 4"):
        predict_logits(GroupMean(4), dataset, collator, 4, progress=False, ensemble=3)


def test_logits_of_tokens_are_those_that_carry_a_label(tokenizer):
    def model(input_ids, attention_mask, token_type_ids=None):
        return input_ids.unsqueeze(-1).float()

    dataset = Rows(
        {
            "input_ids": [2, 10 + i, 20 + i, 3],
            "attention_mask": [1] * 4,
            "labels": [IGNORE, 1, 0 if i else IGNORE, IGNORE],
        }
        for i in range(3)
    )
    order = np.array([2, 0, 1])
    logits = predict_logits(model, dataset, GroupingCollator(tokenizer, 2), 2, order=order, progress=False)
    np.testing.assert_array_equal(logits[:, 0], [10, 11, 21, 12, 22])


def test_logits_averaged_over_groupings(tokenizer):
    """One score per set of A groupings, of the mean of their logits."""
    dataset = rows_of([3] * 8)
    orders = groupings(8, 6, 7)
    collator = GroupingCollator(tokenizer, 2)
    logits = [predict_logits(GroupMean(2), dataset, collator, 4, order=o, progress=False) for o in orders]
    labels = np.array(dataset["labels"])
    scores = [np.mean(np.mean(logits[i : i + 2], axis=0).argmax(1) == labels) for i in (0, 2, 4)]
    found = evaluate(
        GroupMean(2),
        Data(dataset),
        tokenizer,
        4,
        num_groupings=3,
        average_groupings=2,
        seed=7,
        progress=False,
    )
    assert found == {
        "accuracy": pytest.approx(np.mean(scores)),
        "accuracy_std": pytest.approx(np.std(scores)),
    }


def test_neighbours_of_similar_length(tokenizer):
    model = GroupMean(2)
    dataset = rows_of([3, 9, 3, 9, 4, 8])
    evaluate(model, Data(dataset), tokenizer, 2, num_groupings=2, group_by_length=True, progress=False)
    lengths = [batch["attention_mask"].sum(1).tolist() for batch in model.batches]
    assert lengths == 2 * [[3, 3], [4, 8], [9, 9]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
def test_the_batch_size_does_not_choose_the_neighbours(tokenizer, batch_size):
    dataset, collator = rows_of([3] * 8), GroupingCollator(tokenizer, 2)
    logits = predict_logits(GroupMean(2), dataset, collator, batch_size, progress=False)
    np.testing.assert_array_equal(logits[:, 1], np.repeat([10.5, 12.5, 14.5, 16.5], 2))


def test_a_wrong_order_or_batch_size_is_refused(tokenizer):
    dataset, collator = rows_of([3] * 4), GroupingCollator(tokenizer, 2)
    with pytest.raises(AssertionError, match="permutation"):
        predict_logits(GroupMean(2), dataset, collator, 4, order=np.array([0, 0, 1, 2]), progress=False)
    with pytest.raises(UserError, match="batch size 0"):
        predict_logits(GroupMean(2), dataset, collator, 0, progress=False)
    with pytest.raises(UserError, match="empty"):
        predict_logits(GroupMean(2), Rows(), collator, 4, progress=False)


def test_any_callable_is_a_model_and_gets_no_labels(tokenizer):
    def model(input_ids, attention_mask, token_type_ids=None):
        return SimpleNamespace(logits=attention_mask.sum(1, keepdim=True))

    logits = predict_logits(model, rows_of([3, 5]), GroupingCollator(tokenizer, 1), 2, progress=False)
    np.testing.assert_array_equal(logits, [[3], [5]])
    assert model_device(model) == torch.device("cpu")


def test_half_precision_logits_come_back_as_float32(tokenizer):
    model = GroupMean(2).to(torch.bfloat16)
    logits = predict_logits(model, rows_of([3] * 4), GroupingCollator(tokenizer, 2), 4, progress=False)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored_module_by_module_also_after_an_error(training):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train(training)
    model[1].eval()

    def look() -> None:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            assert torch.is_inference_mode_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert [module.training for module in model.modules()] == [training, training, False]
    assert not torch.is_inference_mode_enabled()


def test_evaluate_averages_over_groupings_with_population_std(tokenizer, monkeypatch):
    values = iter([0.5, 0.7, 0.9])
    seen = []

    def compute_metrics(names, logits, labels):
        seen.append((tuple(names), logits, labels))
        return {"accuracy": next(values)}

    monkeypatch.setattr("prumux.evaluation.metrics.compute_metrics", compute_metrics)
    result = evaluate(GroupMean(2), Data(rows_of([3] * 8)), tokenizer, 4, num_groupings=3, progress=False)
    assert result == {"accuracy": pytest.approx(0.7), "accuracy_std": pytest.approx(np.std([0.5, 0.7, 0.9]))}
    first, second, third = (logits[:, 1] for _, logits, _ in seen)
    np.testing.assert_array_equal(first, np.repeat([10.5, 12.5, 14.5, 16.5], 2))
    assert not np.array_equal(second, first)
    assert not np.array_equal(third, second)
    np.testing.assert_array_equal(seen[0][2], [0, 1] * 4)


def test_without_multiplexing_one_grouping_is_enough(tokenizer):
    model = GroupMean(1)
    result = evaluate(model, Data(rows_of([3] * 4)), tokenizer, 4, num_groupings=5, progress=False)
    assert len(model.batches) == 1
    assert result["accuracy_std"] == 0.0


def test_filled_rows_never_count(tokenizer):
    model = GroupMean(2)
    result = evaluate(model, Data(rows_of([3] * 5)), tokenizer, 4, progress=False)
    assert [len(batch["input_ids"]) for batch in model.batches] == [4, 2]
    # The last row is mixed with its own copy: own == mean, class 0, right; the other four are wrong.
    assert result["accuracy"] == pytest.approx(1 / 5)


def test_padding(tokenizer):
    dynamic, fixed = GroupMean(2), GroupMean(2)
    data = Data(rows_of([3, 5, 7, 4]))
    evaluate(dynamic, data, tokenizer, 2, progress=False)
    evaluate(fixed, data, tokenizer, 2, pad_to_length=9, progress=False)
    assert [batch["input_ids"].shape[1] for batch in dynamic.batches] == [5, 7]
    assert [batch["input_ids"].shape[1] for batch in fixed.batches] == [9, 9]


def test_bad_arguments_are_user_errors(tokenizer):
    with pytest.raises(UserError, match="0 groupings"):
        evaluate(GroupMean(2), Data(rows_of([3])), tokenizer, 4, num_groupings=0)
    with pytest.raises(UserError, match="no development set"):
        evaluate(GroupMean(2), Data(None), tokenizer, 4)


@pytest.mark.parametrize("num_instances", [1, 2, 3])
def test_a_real_model_repeats_to_the_bit(tokenizer, num_instances):
    torch.manual_seed(0)
    config = PrumuxConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_instances=num_instances,
    )
    model = PrumuxForSequenceClassification(config).train()
    dataset = rows_of([3, 9, 5, 12, 4, 6, 8])
    collator = GroupingCollator(tokenizer, num_instances)
    state = torch.get_rng_state()
    first = predict_logits(model, dataset, collator, 4, progress=False)
    second = predict_logits(model, dataset, collator, 4, progress=False)
    np.testing.assert_array_equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert dataset == rows_of([3, 9, 5, 12, 4, 6, 8])


@pytest.mark.parametrize("label2id", [{"a": 0, "b": 1, "c": 2}, {"c": 0, "b": 1, "a": 2}])
def test_classes_that_the_data_lacks_compete_as_well(tokenizer, label2id):
    class Fixed(torch.nn.Module):
        config = SimpleNamespace(num_instances=1, label2id=label2id)

        def forward(self, input_ids, **_):
            number = torch.full((len(input_ids),), label2id["c"])
            return SimpleNamespace(
                logits=torch.nn.functional.one_hot(number, 3) + torch.tensor([0.5, 0.2, 0.5])
            )

    rows = rows_of([3] * 4)
    for row in rows:
        row["labels"] = label2id["ab"[row["labels"]]]
    assert evaluate(Fixed(), Data(rows), tokenizer, 4, progress=False)["accuracy"] == 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed):
    with pytest.raises(UserError, match="expected a whole number from 0"):
        Settings(seed=seed)


@pytest.mark.parametrize("label2id", [{"a": 0, "b": 1}, {"b": 0, "A": 1}])
def test_f1_is_about_the_tasks_positive_class_in_any_order_of_the_models(tokenizer, label2id):
    """Rows of class b are predicted as b, those of class a half as a."""
    by_name = {name.lower(): number for name, number in label2id.items()}

    class Fixed(torch.nn.Module):
        config = SimpleNamespace(num_instances=1, label2id=label2id)

        def forward(self, input_ids, **_):
            says_b = (input_ids[:, 0] - 10) % 4 != 0
            numbers = torch.where(says_b, by_name["b"], by_name["a"])
            return SimpleNamespace(logits=torch.nn.functional.one_hot(numbers, 2).float())

    rows = rows_of([3] * 8)
    for place, row in enumerate(rows):
        row["labels"] = by_name["ab"[place % 2]]
    result = evaluate(Fixed(), Data(rows, metrics=("f1", "accuracy")), tokenizer, 4, progress=False)
    assert (result["f1"], result["accuracy"]) == (pytest.approx(0.8), 0.75)
