"""One run from flags to a folder: data, model, training (resumed if it was interrupted), evaluation, record."""

from __future__ import annotations

import gc
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase, set_seed

from prumux.data.corpus import is_corpus, load_corpus
from prumux.data.grouping import GroupingCollator
from prumux.data.loading import TaskData, tokenize
from prumux.errors import UserError, first_line, write_failure
from prumux.models.heads import (
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
)
from prumux.models.loading import is_classifier, load_model
from prumux.pruning.gates import Gates
from prumux.pruning.snapping import snap
from prumux.reports.provenance import write_json
from prumux.training.arguments import PRETRAINING, Arguments, precision
from prumux.training.distilled import Distilled
from prumux.training.distilling import DistillationTrainer
from prumux.training.folder import (
    BEST,
    LATENCY_FILE,
    NARROW,
    ON_THE_WAY,
    RUN_FILE,
    STARTED_FILE,
    check_writable,
    clear,
    computing_flags,
    finished,
    last_checkpoint,
)
from prumux.training.inputs import (
    check_batch,
    check_vocabulary,
    choose_tokenizer,
    converted,
    load_data,
    names_words,
)
from prumux.training.parsing import parse_arguments
from prumux.training.pretraining import pretraining_trainer
from prumux.training.record import make_record, store
from prumux.training.structure import build_gates, empty_model, narrow_flags, narrowed, start_side_by_side
from prumux.training.teachers import load_teacher, make_layer_map, teaches_states
from prumux.training.trainer import PrumuxTrainer

logger = logging.getLogger(__name__)

LEAST_LENGTH = 4  # tokens that a row must have room for
Classifier = PrumuxForSequenceClassification | PrumuxForTokenClassification
HeadModel = PrumuxForMaskedLM | Classifier  # what a run trains


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Do what the flags of run_glue.py say and return the run's record.

    A finished run in the same folder is not repeated, an interrupted one is resumed.

    Raises:
        UserError: anything the user can put right.
    """
    overwrite = "--overwrite_output_dir" in argv
    argv = [argument for argument in argv if argument != "--overwrite_output_dir"]
    arguments = parse_arguments(argv)
    _set_up_logging(arguments)
    assert arguments.training.output_dir is not None  # parse_arguments has a default
    output = Path(arguments.training.output_dir)
    wanted = computing_flags(argv, arguments.recipe)
    training = arguments.training
    check_writable(output)
    if training.do_train and not overwrite and (record := finished(output, wanted)) is not None:
        logger.info("%s is finished: nothing to do (--overwrite_output_dir trains again)", output)
        return record
    set_seed(training.seed)
    start = time.monotonic()
    if training.do_train and overwrite and training.process_index == 0:
        (output / LATENCY_FILE).unlink(missing_ok=True)  # now: the trainer measures its own
    narrow = narrow_flags(argv, arguments)
    trainer = _built(arguments if narrow is None else _with_one_batch(arguments))
    if training.do_train:
        if overwrite:
            clear(output)
        write_json(output / STARTED_FILE, wanted)
        if narrow is not None:
            # the trainer above was to find mistakes before they cost the narrow encoder's training
            del trainer
            arguments = _after_narrow(narrow, argv)
            trainer = _built(arguments)
        _train(trainer, output)
        trainer.accelerator.wait_for_everyone()  # the main process may still be writing the best model
    record = make_record(trainer, arguments, time.monotonic() - start, wanted)
    if training.do_train and training.should_save:
        write_json(output / RUN_FILE, record)
        store(record, trainer, arguments)
        for checkpoint in output.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return record


def _with_one_batch(arguments: Arguments) -> Arguments:
    """The same run on no more rows than one of its batches has, which is soon built."""
    batch, rows = arguments.training.per_device_train_batch_size, arguments.data.max_train_samples
    return replace(arguments, data=replace(arguments.data, max_train_samples=min(batch, rows or batch)))


def _after_narrow(narrow: Sequence[str], argv: Sequence[str]) -> Arguments:
    """The arguments as they are once the narrow encoder has been taught, which is a run of its own."""
    run(narrow)
    gc.collect()  # its trainer is part of a cycle and holds what the teacher said of every row
    arguments = parse_arguments(argv)  # anew: they set what all of Accelerate shares, such as the precision
    set_seed(arguments.training.seed)
    best = Path(str(arguments.training.output_dir)) / NARROW / BEST
    return replace(arguments, model=replace(arguments.model, model_name_or_path=str(best)))


# ---- building


def _built(arguments: Arguments) -> PrumuxTrainer:
    try:
        return build_trainer(arguments)
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "install" not in str(error):
            raise
        # a flag of Transformers asks for a package that is not installed
        raise UserError(f"{first_line(error)}: change the flag that asks for it") from error


def build_trainer(arguments: Arguments) -> PrumuxTrainer:
    """Data, tokenizer, model and, where there is one, the teacher of this run, in a trainer."""
    pretraining = arguments.pruning.setting in PRETRAINING
    flags = arguments.data
    plain = is_corpus(flags.task_name, flags.train_file, flags.validation_file)
    if pretraining and plain and not names_words(arguments):
        return _from_corpus(arguments)
    data = load_data(arguments)
    if arguments.training.do_train and data.train is None:
        raise UserError(f"{data.name} has no training data: give --train_file, or leave out --do_train")
    if data.validation is None:
        raise UserError(
            f"{data.name} has no development set to choose the best model on: give --validation_file"
        )
    with arguments.training.main_process_first(local=False, desc="converting"):
        arguments = converted(arguments)
    tokenizer = choose_tokenizer(arguments, data.tokens)
    model = _model(arguments, data, pretraining, tokenizer)
    check_vocabulary(model, tokenizer)
    if arguments.training.do_train:
        check_batch(arguments.training.per_device_train_batch_size, model.config.num_instances)
    data = tokenize(
        data, tokenizer, _max_length(arguments, model), None if pretraining else model.config.label2id
    )
    if pretraining:
        return pretraining_trainer(arguments, data, tokenizer, model)
    # a model that attends padding reads as much of it as when it is evaluated
    padded = _max_length(arguments, model) if model.config.attend_padding else None
    collator = GroupingCollator(tokenizer, model.config.num_instances, pad_to_length=padded)
    teacher_path = arguments.pruning.distillation_path
    pruning = arguments.pruning.setting == "pruning"
    if pruning and not arguments.training.do_train:
        raise UserError(
            "--setting pruning needs --do_train: evaluate a pruned model with --setting finetuning"
        )
    teacher = load_teacher(arguments, data, model) if pruning or teacher_path else None
    if arguments.pruning.narrow_for is not None and not pruning:
        model = narrowed(arguments, model, data, tokenizer)
    if arguments.pruning.freeze_embeddings:
        model.bert.embeddings.requires_grad_(False)
    if arguments.model.separate_instances:
        if not arguments.training.do_train:
            raise UserError(
                "--separate_instances is how training starts: give --do_train, or --separate_instances False"
            )
        start_side_by_side(arguments, model, data, tokenizer)
    if teacher is None:
        return PrumuxTrainer(model, arguments, data, tokenizer, collator)
    gates: Gates | None = None
    targets: Sequence[float] = ()
    if pruning:
        length = _max_length(arguments, model)
        gates, targets = build_gates(arguments, model, data, collator, length)
        for target in targets:  # one that no structure can meet is refused now, not after hours
            snap(gates, target, arguments.pruning.sparsity_epsilon, arguments.pruning.round_to)
    states = teaches_states(arguments, model, teacher)
    if states:
        logger.info(
            "taught every token's last state: --distill_layer_loss_alpha and --layer_distill_version are not used"
        )
    layer_map = None if model.config.is_multiplexed and states else make_layer_map(model, teacher)
    start = arguments.model.model_name_or_path
    # a model that teaches itself needs the identity
    taught_before = model.config.is_pruned and teacher_path not in (None, start)
    if layer_map is not None and start is not None and taught_before and layer_map.load(Path(start)):
        logger.info("the layer map goes on from the one in %s", start)
    trainer = DistillationTrainer(
        Distilled(model, layer_map, gates, states=states),
        teacher,
        tuple(targets),
        arguments,
        data,
        tokenizer,
        collator,
    )
    if gates is not None:
        trainer.check_schedule()
    return trainer


def _from_corpus(arguments: Arguments) -> PrumuxTrainer:
    """The trainer of a pretraining phase on plain text."""
    with arguments.training.main_process_first(local=False, desc="converting"):
        arguments = converted(arguments)
    flags = arguments.data
    tokenizer = choose_tokenizer(arguments, tokens=False)
    model = _model(arguments, None, True, tokenizer)
    check_vocabulary(model, tokenizer)
    if arguments.training.do_train:
        check_batch(arguments.training.per_device_train_batch_size, model.config.num_instances)
    data = load_corpus(
        flags.task_name,
        tokenizer,
        _max_length(arguments, model),
        flags.train_file,
        flags.validation_file,
        line_by_line=flags.line_by_line,
        max_train_samples=flags.max_train_samples,
        max_eval_samples=flags.max_eval_samples,
    )
    if arguments.training.do_train and data.train is None:
        raise UserError(f"{data.name} has no training text: give --train_file, or leave out --do_train")
    return pretraining_trainer(arguments, data, tokenizer, model)


def _model(
    arguments: Arguments, data: TaskData | None, pretraining: bool, tokenizer: PreTrainedTokenizerBase
) -> HeadModel:
    """The model to train; ``data`` names a classifier's labels."""
    overrides = arguments.model.overrides()
    if arguments.model.model_name_or_path is None:  # new weights: the special tokens are the tokenizer's
        overrides["pad_token_id"] = tokenizer.pad_token_id
    setting = arguments.pruning.setting
    if setting == "retrieval_pretraining":
        overrides = {"retrieval_loss_coeff": 1.0, "task_loss_coeff": 0.0} | overrides
        if (overrides.get("num_instances") or 1) == 1:
            raise UserError(
                "retrieval_pretraining separates multiplexed inputs: give --num_instances 2 or more"
            )
    elif setting == "mlm_pretraining":
        overrides = {"task_loss_coeff": 1.0, "retrieval_loss_coeff": 0.0} | overrides
    elif setting == "pruning" or arguments.pruning.distillation_path:  # distillation is the whole loss
        if overrides.get("retrieval_loss_coeff"):
            logger.info("taught by a teacher: --retrieval_loss_coeff and --task_loss_coeff are not used")
        overrides |= {"retrieval_loss_coeff": 0.0, "task_loss_coeff": 1.0}
    else:
        overrides = {"task_loss_coeff": 1.0, "retrieval_loss_coeff": 0.0} | overrides
    if pretraining and not (overrides["retrieval_loss_coeff"] or overrides["task_loss_coeff"]):
        raise UserError(
            "--retrieval_loss_coeff and --task_loss_coeff are both 0: there is no loss, give one of them"
        )
    kind: type[Any] = PrumuxForMaskedLM if pretraining or data is None else _classifier(data)
    path = arguments.model.model_name_or_path
    if setting == "pruning" and path is not None and not is_classifier(path):
        logger.warning("%s has no trained classifier: prune a model that was finetuned on the task", path)
    if arguments.model.separate_instances and path is not None:
        return empty_model(kind, path, overrides, None if data is None else data.label_names)
    model = load_model(
        kind,
        model_path=arguments.model.model_name_or_path,
        config_path=arguments.model.config_name,
        overrides=overrides,
        label_names=None if pretraining or data is None else data.label_names,
        classifies=not pretraining,
    )
    if model.config.retrieval_loss_coeff and model.lm_head is None:
        logger.info("a pruned model, or one that multiplexes nothing: --retrieval_loss_coeff is not used")
        model.config.retrieval_loss_coeff = 0.0
    return model


def _classifier(data: TaskData) -> type[Classifier]:
    return PrumuxForTokenClassification if data.tokens else PrumuxForSequenceClassification


def _max_length(arguments: Arguments, model: HeadModel) -> int:
    if model.bert.max_length < LEAST_LENGTH:
        raise UserError(
            f"the {model.bert.prefix_length} markers of {model.config.demuxing_variant} demultiplexing leave "
            f"{model.bert.max_length} of {model.config.max_position_embeddings} positions for a row: give a smaller "
            "--num_instances or another --demuxing_variant"
        )
    return min(arguments.data.max_seq_length, model.bert.max_length)


# ---- training and records


def _train(trainer: PrumuxTrainer, output: Path) -> None:
    checkpoint = last_checkpoint(output)
    if checkpoint is None:  # what is there is of a run that was killed before its first checkpoint
        for left in (output / BEST, *output.glob(f"{ON_THE_WAY}*/{BEST}")):
            shutil.rmtree(left, ignore_errors=True)
    else:
        logger.info("resuming from %s", checkpoint)
    logger.info("computing in %s on %s", precision(trainer.args), trainer.args.device.type)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not _evaluated_last_step(trainer):
            trainer.evaluate()
    except Exception as error:
        raise (write_failure(error, output) or error) from error


def _evaluated_last_step(trainer: PrumuxTrainer) -> bool:
    return any(
        entry.get("step") == trainer.state.global_step and any(key.startswith("eval_") for key in entry)
        for entry in trainer.state.log_history
    )


def _set_up_logging(arguments: Arguments) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("prumux").setLevel(logging.INFO if arguments.training.should_log else logging.WARNING)
    transformers.utils.logging.set_verbosity_warning()
