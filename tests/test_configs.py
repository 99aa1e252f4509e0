"""Every file in configs/ is usable: architectures build and answer, recipes hold flags that run_glue.py knows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prumux import PrumuxConfig, PrumuxForSequenceClassification
from prumux.data.toy import toy_tokenizer
from prumux.inference.hardware import has_bfloat16, resolve_device
from prumux.models.architecture import build_config, read_config
from prumux.models.backbones import BACKBONES
from prumux.pruning.accounting import sparsity
from prumux.training.parsing import parse_arguments
from prumux.training.recipes import MADE_WITH

PROJECT = Path(__file__).resolve().parents[1]
MODELS = sorted((PROJECT / "configs/models").glob("*.json"))
ABLATIONS = sorted((PROJECT / "configs/ablations").rglob("*.json"))
STRUCTURES = sorted((PROJECT / "configs/structures").glob("*.json"))
RECIPES = sorted((PROJECT / "configs/recipes").glob("*.yaml"))
PHASES = {"retrieval_pretraining", "mlm_pretraining", "finetuning", "pruning", "finetuning_pruned"}
OVERRIDES = {"num_instances_1", "num_instances_2", "num_instances_5", "num_instances_10", "small_tasks"}


def stem(path: Path) -> str:
    return path.stem


def test_no_file_is_forgotten() -> None:
    files = {path for path in (PROJECT / "configs").rglob("*") if path.is_file()}
    grids = (PROJECT / "configs/grids").glob("*.yaml")  # tests/grid plans them
    assert files == {*MODELS, *ABLATIONS, *STRUCTURES, *RECIPES, *grids}


@pytest.mark.parametrize("path", STRUCTURES, ids=stem)
def test_structures_have_the_sparsity_of_their_name(path: Path) -> None:
    assert sparsity(PrumuxConfig.from_json_file(path)) == pytest.approx(float(path.stem[-4:]), abs=0.001)


@pytest.mark.parametrize("path", [*MODELS, *ABLATIONS, *STRUCTURES], ids=stem)
@pytest.mark.parametrize("num_instances", [1, 2])
def test_architectures_build(path: Path, num_instances: int) -> None:
    fields = json.loads(path.read_text())
    if fields["model_type"] == PrumuxConfig.model_type:
        assert set(fields) <= set(PrumuxConfig().to_dict())
    else:
        assert fields["model_type"] in BACKBONES
    overrides = {"num_instances": num_instances}
    config = build_config(read_config(path), overrides, ["negative", "positive"], classifies=True)
    with torch.device("meta"):  # shapes only: BERT-base in milliseconds
        model = PrumuxForSequenceClassification(config)
    embeddings = model.get_input_embeddings()
    assert embeddings.weight.shape == (fields["vocab_size"], fields["hidden_size"])
    assert len(model.bert.encoder.layer) == fields["num_hidden_layers"]


def test_published_sizes() -> None:
    """Parameters of the published encoders, embeddings and pooler included."""
    expected = {"bert_base": 109.5e6, "bert_small": 28.8e6, "bert_tiny": 4.4e6, "minilm_l6": 22.7e6}
    for name, parameters in expected.items():
        with torch.device("meta"):
            model = PrumuxForSequenceClassification(
                PrumuxConfig.from_json_file(PROJECT / f"configs/models/{name}.json")
            )
        assert sum(p.numel() for p in model.bert.parameters()) == pytest.approx(parameters, rel=0.005)


def test_the_toy_architecture_fits_the_toy_vocabulary() -> None:
    fields = json.loads((PROJECT / "configs/models/toy.json").read_text())
    assert len(toy_tokenizer()) <= fields["vocab_size"]
    assert fields["pad_token_id"] == toy_tokenizer().pad_token_id


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_recipes_have_sections_for_phases(path: Path) -> None:
    sections = set(yaml.safe_load(path.read_text())) - {"teacher", "distillation", "narrow"}
    assert sections <= PHASES
    assert sections == PHASES or path.stem != "paper"


@pytest.mark.parametrize(
    ("path", "phase"),
    [
        pytest.param(path, phase, id=f"{path.stem}-{phase}")
        for path in RECIPES
        for phase in yaml.safe_load(path.read_text())
        if phase in PHASES
    ],
)
@pytest.mark.parametrize(("num_instances", "task"), [(1, "SST-2"), (2, "SST-2"), (5, "SST-2"), (2, "RTE")])
def test_recipes_reach_training(
    path: Path, phase: str, num_instances: int, task: str, tmp_path: Path
) -> None:
    """Every value of a section, overridden where it applies, is what run_glue.py trains with."""
    section: dict[str, Any] = yaml.safe_load(path.read_text())[phase]
    overrides = {name: section.pop(name, {}) for name in OVERRIDES}
    expected = section | overrides.get(f"num_instances_{num_instances}", {})
    expected |= overrides["small_tasks"] if task == "RTE" else {}
    if num_instances == 1:  # a recipe doesn't say how a plain model multiplexes
        expected = {name: value for name, value in expected.items() if name not in MADE_WITH}
    if expected.get("bf16") == "auto":
        expected["bf16"] = has_bfloat16(resolve_device())
    setting = "finetuning" if phase == "finetuning_pruned" else phase
    teacher = ["--distillation_path", "teacher"] if phase == "finetuning_pruned" else []
    teacher += ["--model_path", "PruMUX/x/best" if phase == "finetuning_pruned" else "plain"]
    arguments = parse_arguments(
        [
            *(
                "--recipe",
                str(path),
                "--setting",
                setting,
                "--task_name",
                task,
                "--output_dir",
                str(tmp_path),
            ),
            *("--num_instances", str(num_instances), *teacher),
        ]
    )
    groups = (arguments.model, arguments.data, arguments.pruning, arguments.training)
    parsed = {name: value for group in groups for name, value in vars(group).items()}
    assert {name: parsed[name] for name in expected} == expected
    assert parsed["per_device_train_batch_size"] == expected["groups_per_batch"] * num_instances


def test_the_papers_hyperparameters() -> None:
    """METHOD of the papers: the figures of PruMUX's and CoFi's hyperparameter tables."""
    recipe = yaml.safe_load((PROJECT / "configs/recipes/paper.yaml").read_text())
    pruning, finetuning = recipe["pruning"], recipe["finetuning_pruned"]
    assert (pruning["learning_rate"], pruning["reg_learning_rate"], pruning["groups_per_batch"]) == (
        5e-5,
        0.01,
        32,
    )
    assert (pruning["num_train_epochs"], pruning["num_instances_1"]["num_train_epochs"]) == (40, 20)
    assert (pruning["prepruning_finetune_epochs"], pruning["lagrangian_warmup_epochs"]) == (0, 2)
    assert pruning["num_instances_1"]["prepruning_finetune_epochs"] == 1
    small = pruning["small_tasks"]
    assert (small["num_train_epochs"], small["prepruning_finetune_epochs"]) == (100, 4)
    assert small["lagrangian_warmup_epochs"] == 20
    assert (pruning["sparsity_epsilon"], pruning["distill_temp"], pruning["seed"]) == (0.01, 2, 57)
    assert pruning["freeze_embeddings"] is True
    assert (finetuning["num_train_epochs"], finetuning["groups_per_batch"]) == (40, 64)
    assert finetuning["lr_scheduler_type"] == "constant"
    assert {section["max_seq_length"] for section in recipe.values()} == {128}


def test_conda_refers_to_the_one_list_of_packages() -> None:
    environment = yaml.safe_load((PROJECT / "prumux.yml").read_text())
    assert environment["name"] == "prumux"
    assert environment["dependencies"] == ["python>=3.10", "pip", {"pip": ["-e .[test]"]}]
    assert 'requires-python = ">=3.10"' in (PROJECT / "pyproject.toml").read_text()


def test_every_dependency_has_a_range_and_a_reason() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    lists = re.findall(
        r"^(?:dependencies|test|onnx|benchmark) = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE
    )
    lines = [line for block in lists for line in block.splitlines()]
    assert len(lines) > 12
    for line in lines:
        reference = r'\s+"prumux\[\w+\]",.*'  # another list here
        assert re.fullmatch(r'\s+"[\w-]+>=[\d.]+,<[\d.]+",\s+# \w.*|' + reference, line), line
