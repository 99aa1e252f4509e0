"""Flags: command line over recipe over defaults, batches in groups, and one line for everything out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prumux.errors import UserError
from prumux.training import parsing
from prumux.training.arguments import Arguments
from prumux.training.parsing import parse_arguments

TOY = ["--task_name", "toy"]


def parse(flags: str = "") -> Arguments:
    return parse_arguments([*TOY, *flags.split()])


def refused(argv: list[str]) -> str:
    with pytest.raises(UserError) as error:
        parse_arguments(argv)
    return str(error.value)


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns the flags that name it."""

    def write(text: str | bytes) -> str:
        path: Path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"--recipe {path}"

    return write


# ---- defaults and precedence


def test_defaults():
    arguments = parse()
    assert arguments.pruning.setting == "finetuning"
    assert arguments.pruning.target_sparsity == [0.6]
    assert arguments.pruning.layer_distill_version == 4
    assert arguments.training.seed == 57
    assert arguments.training.report_to == []
    assert arguments.model.num_instances is None
    assert arguments.model.overrides() == {}


def test_only_given_flags_override_a_checkpoint():
    given = parse("--num_instances 2 --learn_muxing False --model_path m --tokenizer_name t --config_name c")
    assert given.model.overrides() == {"num_instances": 2, "learn_muxing": False}


def test_both_names_of_the_model_and_the_teacher():
    assert parse("--model_path a").model.model_name_or_path == "a"
    assert parse("--model_name_or_path a").model.model_name_or_path == "a"
    assert parse("--teacher a").pruning.distillation_path == "a"


PRECEDENCE = """
finetuning:
  learning_rate: 3.0e-4
  num_train_epochs: 7
  max_seq_length: 64
pruning:
  target_sparsity: 0.3
"""


def test_command_line_over_recipe_over_default(recipe):
    arguments = parse(f"{recipe(PRECEDENCE)} --num_train_epochs 2")
    assert arguments.training.num_train_epochs == 2
    assert arguments.training.learning_rate == 3e-4
    assert arguments.data.max_seq_length == 64
    assert arguments.pruning.target_sparsity == [0.6], "another phase's section"
    assert parse(f"{recipe(PRECEDENCE)} --setting pruning").pruning.target_sparsity == [0.3]
    assert parse(f"--num_train_epochs=2 {recipe(PRECEDENCE)}").training.num_train_epochs == 2


def test_numbers_that_yaml_reads_as_text(recipe):
    assert parse(recipe("finetuning:\n  learning_rate: 5e-5")).training.learning_rate == 5e-5


@pytest.mark.parametrize("here", [True, False])
def test_bfloat16_where_the_hardware_has_it(recipe, monkeypatch, here):
    monkeypatch.setattr(parsing, "has_bfloat16", lambda device: here)
    auto = recipe("finetuning:\n  bf16: auto")
    assert parse(auto).training.bf16 is here
    assert parse("--bf16 auto").training.bf16 is here
    assert parse(f"{auto} --bf16").training.bf16 is True, "asked for, so at any price"
    assert parse(f"{auto} --bf16 False").training.bf16 is False
    assert parse(f"{auto} --fp16").training.bf16 is False, "the other half precision"
    assert parse("--bf16 AUTO").training.bf16 is here
    assert "--bf16: expected true, false or auto, got 'perhaps'" in refused([*TOY, "--bf16", "perhaps"])


SECTIONS = """
finetuning:
  seed: 1
finetuning_pruned:
  seed: 2
pruning:
  seed: 3
"""


@pytest.mark.parametrize(
    ("flags", "seed"),
    [
        ("--setting baseline", 1),
        ("--setting finetuning --num_instances 2", 1),
        ("--setting finetuning --distillation_path teacher --model_path out/PruMUX/x/best", 2),
        ("--setting pruning --teacher teacher", 3),
    ],
)
def test_the_section_of_the_phase(recipe, flags, seed):
    assert parse(f"{recipe(SECTIONS)} {flags}").training.seed == seed


OVERRIDES = """
finetuning:
  num_train_epochs: 10
  seed: 1
  num_instances_1:
    num_train_epochs: 3
  num_instances_5:
    seed: 5
    groups_per_batch: 4
  small_tasks:
    num_train_epochs: 100
    seed: 9
"""


@pytest.mark.parametrize(
    ("task", "flags", "epochs", "seed"),
    [
        ("toy", "--num_instances 2", 10, 1),
        ("toy", "--num_instances 1", 3, 1),
        ("toy", "--num_instances 5", 10, 5),
        ("toy", "", 3, 1),
        ("RTE", "--num_instances 2", 100, 9),
        ("stsb", "--num_instances 2", 100, 9),
        ("mrpc", "", 100, 9),
        ("SST-2", "--num_instances 2", 10, 1),
        ("my-own-task", "--num_instances 2", 10, 1),
        ("RTE", "--num_instances 2 --num_train_epochs 4", 4, 9),
    ],
)
def test_overrides_inside_a_section(recipe, task, flags, epochs, seed):
    argv = f"--task_name {task} {recipe(OVERRIDES)} {flags}".split()
    arguments = parse_arguments(argv)
    assert (arguments.training.num_train_epochs, arguments.training.seed) == (epochs, seed)


def test_a_warm_up_in_epochs_overrules_the_recipes_share(recipe):
    section = recipe("pruning: {lagrangian_warmup_ratio: 0.8}")
    assert parse(f"{section} --setting pruning").pruning.lagrangian_warmup_ratio == 0.8
    other = parse(f"{section} --setting pruning --lagrangian_warmup_epochs 1").pruning
    assert (other.lagrangian_warmup_ratio, other.lagrangian_warmup_epochs) == (None, 1)


def test_labels_overrule_the_recipes_other_words(recipe):
    section = recipe("finetuning: {replace_tokens: 0.3}")
    assert parse(f"{section} --setting finetuning").pruning.replace_tokens == 0.3
    assert parse(f"{section} --setting finetuning --distill_task_loss_alpha 1").pruning.replace_tokens == 0


# ---- batches


GROUPS = "finetuning:\n  groups_per_batch: 8"


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ("", 8),
        ("--num_instances 5", 40),
        ("--num_instances 5 --groups_per_batch 3", 15),
        ("--num_instances 5 --per_device_train_batch_size 10", 10),
        ("--num_instances 5 --per_device_train_batch_size=10", 10),
        ("--num_instances 5 --per-device-train-batch-size 10", 10),
    ],
)
def test_batches_in_groups(recipe, flags, rows):
    assert parse(f"{recipe(GROUPS)} {flags}").training.per_device_train_batch_size == rows


def test_batches_that_form_no_groups():
    message = refused([*TOY, "--num_instances", "3", "--per_device_train_batch_size", "8"])
    assert message == "--per_device_train_batch_size is 8, expected a multiple of --num_instances 3 (rows)"


# ---- recipes that are wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetuning:\n  learnin_rate: 1.0", "unknown flag 'learnin_rate'"),
        ("finetuning:\n  num_instances_1:\n    epochs: 1", "unknown flag 'epochs'"),
        ("finetuning:\n  setting: pruning", "unknown flag 'setting'"),
        ("finetuning:\n  1: 2", "unknown flag '1'"),
        ("finetuning:\n  learning_rate: many", "--learning_rate"),
        ("finetuning:\n  max_steps: 2.5", "--max_steps"),
        ("finetuning:\n  max_seq_length: [3]", "expected a single value"),
        ("finetuning:\n  target_sparsity:", "expected a single value"),
        ("finetuning:\n  target_sparsity: 2", "--target_sparsity is 2.0"),
        ("finetuning: fast", "expected a mapping"),
        ("finetuning:\n  num_instances_1: 3", "expected a mapping"),
        ("- finetuning", "expected a YAML file with a section per phase"),
        ("finetuning: [", "can't read the recipe"),
        (b"\xff\xfe\x00\x01", "can't read the recipe"),
    ],
)
def test_wrong_recipes(recipe, text, message):
    assert message in refused([*TOY, *recipe(text).split()])


def test_a_missing_recipe(tmp_path):
    assert "can't read the recipe" in refused([*TOY, "--recipe", str(tmp_path / "none.yaml")])
    assert "can't read the recipe" in refused([*TOY, "--recipe", str(tmp_path)])


# ---- values out of range


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("target_sparsity", "1.5"),
        ("target_sparsity", "-0.1"),
        ("target_sparsity", "1"),
        ("target_sparsity", "0.995"),
        ("target_sparsity", "nan"),
        ("target_sparsity", "60%"),
        ("num_instances", "0"),
        ("num_instances", "-2"),
        ("num_instances", "2.5"),
        ("setting", "finetune"),
        ("pruning_type", "structured_heads+everything"),
        ("sparsity_epsilon", "0"),
        ("sparsity_epsilon", "1"),
        ("droprate_init", "0"),
        ("distill_temp", "0"),
        ("distill_temp", "inf"),
        ("distill_layer_loss_alpha", "-1"),
        ("layer_distill_version", "1"),
        ("layer_distill_version", "7"),
        ("num_groupings", "0"),
        ("max_seq_length", "0"),
        ("prepruning_finetune_epochs", "-1"),
        ("lagrangian_warmup_epochs", "inf"),
        ("lagrangian_warmup_ratio", "1.1"),
        ("learning_rate", "-1"),
        ("learning_rate", "nan"),
        ("reg_learning_rate", "-0.01"),
        ("multiplier_learning_rate", "-1"),
        ("retrieval_percentage", "0"),
        ("retrieval_percentage", "1.2"),
        ("retrieval_loss_coeff", "-1"),
        ("mlm_probability", "0"),
        ("num_train_epochs", "-1"),
        ("num_train_epochs", "0"),
        ("groups_per_batch", "0"),
        ("groups_per_batch", "-1"),
        ("per_device_train_batch_size", "0"),
        ("per_device_train_batch_size", "-2"),
        ("per_device_eval_batch_size", "0"),
        ("gradient_accumulation_steps", "0"),
        ("eval_strategy", "sometimes"),
        ("optim", "magic"),
        ("learn_muxing", "maybe"),
        ("seed", "x"),
        ("seed", "-1"),
    ],
)
def test_values_out_of_range_name_their_flag(flag, value):
    message = refused([*TOY, f"--{flag}", value])
    assert f"--{flag}" in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["0", "0.99"])
def test_the_ends_of_the_sparsities(value):
    assert parse(f"--target_sparsity {value}").pruning.target_sparsity == [float(value)]


def test_a_baseline_mixes_nothing():
    assert "expected 1 with --setting baseline" in refused(
        [*TOY, "--setting", "baseline", "--num_instances", "2"]
    )


@pytest.mark.parametrize("argv", [["--no_such_flag", "3"], ["stray"], ["--per_device_train_batch", "8"]])
def test_unknown_flags_and_abbreviations(argv):
    message = refused([*TOY, *argv])
    assert "unrecognized arguments" in message
    assert argv[0] in message
    assert re.search("see .* --help$", message)


@pytest.mark.parametrize("wrong", ["--target_sparsty", "--target-sparsty=0.6", "--target_sparse"])
def test_a_misspelt_flag_names_the_nearest(wrong):
    assert re.search(r"did you mean '--target[-_]sparsity'\?", refused([*TOY, wrong]))


def test_no_data():
    assert "give --task_name, or --train_file" in refused([])


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    assert stop.value.code == 0
    assert "--target_sparsity" in capsys.readouterr().out


def test_switches_of_the_model_need_no_value():
    model = parse_arguments(
        [*"--task_name toy --learn_muxing --attend_padding False --embed_twice".split()]
    ).model
    assert (model.learn_muxing, model.attend_padding, model.embed_twice) == (True, False, True)


def test_epochs_on_the_command_line_overrule_the_recipes_steps(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("finetuning:\n  max_steps: 500\n")
    flags = ["--task_name", "toy", "--recipe", str(recipe)]
    assert parse_arguments(flags).training.max_steps == 500
    assert parse_arguments([*flags, "--num_train_epochs", "1"]).training.max_steps == -1


@pytest.mark.parametrize(
    "flag",
    [
        "label_smoothing_factor 0.1",
        "resume_from_checkpoint x",
        "data_seed 3",
        "do_predict",
        "load_best_model_at_end True",
        "metric_for_best_model f1",
        "save_strategy best",
        "lr_scheduler_type reduce_lr_on_plateau",
    ],
)
def test_flags_that_nothing_reads_are_refused(flag):
    with pytest.raises(UserError, match=f"--{flag.split()[0]}.* is not supported"):
        parse_arguments(["--task_name", "toy", *f"--{flag}".split()])


def test_a_recipe_does_not_say_how_a_multiplexed_model_was_made(tmp_path):
    """Its values for new multiplexers hold for those made from a plain model; the command line's always."""
    (tmp_path / "config.json").write_text('{"num_instances": 2, "muxing_variant": "gaussian_hadamard"}')
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "finetuning: {muxing_variant: binary_hadamard, separate_instances: true, learning_rate: 0.5}"
    )
    plain = parse(f"--recipe {file} --num_instances 2 --model_path plain")
    assert (plain.model.muxing_variant, plain.model.separate_instances) == ("binary_hadamard", True)
    multiplexed = parse(f"--recipe {file} --model_path {tmp_path}")
    assert (multiplexed.model.muxing_variant, multiplexed.model.separate_instances) == (None, False)
    assert multiplexed.training.learning_rate == 0.5
    dense = parse(f"--recipe {file} --num_instances 1 --model_path plain")  # another recipe may start from it
    assert (dense.model.muxing_variant, dense.model.separate_instances) == (None, False)
    for flags in ("--model_path plain --muxing_variant random_ortho", "--config_name shape.json"):
        other = parse(f"--recipe {file} --num_instances 2 {flags}")
        assert not other.model.separate_instances
        assert other.model.muxing_variant in (None, "random_ortho")


def test_which_section_a_taught_run_reads(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("teacher: dense\n" + "".join(
        f"{name}: {{seed: {seed}}}\n" for seed, name in enumerate(("finetuning", "distillation", "finetuning_pruned"))
    ))  # fmt: skip
    for n, kept, seed in ((1, "null", 1), (2, "null", 0), (1, "[1]", 2), (2, "[1]", 2)):
        (tmp_path / "config.json").write_text(f'{{"num_instances": {n}, "kept_heads": {kept}}}')
        assert parse(f"--recipe {file} --model_path {tmp_path} --teacher t").training.seed == seed


MULTIPLEXING = """
finetuning: {seed: 1, num_train_epochs: 3}
finetuning_pruned: {seed: 2, num_train_epochs: 1}
retrieval_pretraining: {gaussian_hadamard_norm: 20}
"""


@pytest.mark.parametrize(("start", "seed"), [("bert-base-uncased", 1), ("out/SST-2/PruMUX/x/best", 2)])
def test_a_start_that_is_not_there_to_be_read(recipe, start, seed):
    """A hub name is no pruned model; a folder of pruned models is, also before it is written."""
    flags = f"--num_instances 2 --teacher t --model_path {start}"
    assert parse(f"{recipe(MULTIPLEXING)} {flags}").training.seed == seed


@pytest.mark.parametrize(
    "flags", ["", "--muxing_variant gaussian_hadamard", "--config_name configs/models/toy.json"]
)
def test_how_the_recipe_multiplexes_stays_where_its_variant_is_spelled_out(recipe, flags):
    start = "" if "config" in flags else "--model_path plain"
    given = parse(f"{recipe(MULTIPLEXING)} --setting retrieval_pretraining --num_instances 2 {start} {flags}")
    assert given.model.gaussian_hadamard_norm == 20
    other = f"{recipe(MULTIPLEXING)} --setting retrieval_pretraining --num_instances 2 --model_path plain"
    assert parse(f"{other} --muxing_variant random_ortho").model.gaussian_hadamard_norm is None


def test_one_process_takes_one_gpu(monkeypatch, caplog):
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", property(lambda arguments: 2))
    training = parse("--num_instances 2").training
    assert training._n_gpu == 1
    assert "torchrun --nproc_per_node 2" in caplog.text
