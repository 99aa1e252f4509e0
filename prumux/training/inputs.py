"""What a run starts from: its rows, its checkpoints in our format, its tokenizer, and the checks that they fit."""

from __future__ import annotations

import dataclasses
import logging
import re
import zlib
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prumux.data.loading import TaskData, load_task
from prumux.data.tasks import TASKS
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError
from prumux.models.architecture import is_authors, read_config
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.models.tokenizers import default_tokenizer, load_tokenizer
from prumux.training.arguments import Arguments
from prumux.training.recipes import get_task_name

logger = logging.getLogger(__name__)


def tags_words(arguments: Arguments) -> bool:
    """Are the data words with tags: the flag, the task or the model that is started from says so."""
    path = arguments.model.model_name_or_path
    if names_words(arguments):
        return True
    known = get_task_name(arguments.data.task_name or "") in TASKS
    return not known and path is not None and bool(read_config(path)["_tags_words"])


def names_words(arguments: Arguments) -> bool:
    """Does a flag or the task say that the data are words with tags, whatever the model was before?"""
    task = TASKS.get(get_task_name(arguments.data.task_name or ""))
    return arguments.data.tag_words or (task is not None and task.tokens)


def load_data(arguments: Arguments) -> TaskData:
    """The task's rows, as text."""
    flags = arguments.data
    own_files = flags.train_file is not None or flags.validation_file is not None
    known = get_task_name(flags.task_name or "") in TASKS
    data = load_task(
        None if own_files and not known else flags.task_name,
        flags.data_dir,
        flags.train_file,
        flags.validation_file,
        max_train_samples=flags.max_train_samples,
        max_eval_samples=flags.max_eval_samples,
        tag_words=tags_words(arguments),
    )
    if own_files and flags.task_name is not None:
        data = dataclasses.replace(data, name=get_task_name(flags.task_name))
    return data


def converted(arguments: Arguments) -> Arguments:
    """The arguments with folders of our own in the place of the authors' checkpoints, converted below OUTPUT_DIR."""
    from prumux.checkpoints.convert import convert_checkpoint

    def ours(path: str | None) -> str | None:
        if path is None or not is_authors(read_config(path)):
            return path
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", path).strip("_.")
        name = f"{name}-{_content(path):08x}"
        target = Path(str(arguments.training.output_dir)) / "converted" / name
        if not (target / "config.json").is_file():
            task = TASKS.get(get_task_name(arguments.data.task_name or ""))
            convert_checkpoint(
                path, target, task=task.name if task is not None and task.file_columns else None
            )
            logger.info("%s is the authors' checkpoint: converted once to %s", path, target)
        return str(target)

    model = dataclasses.replace(arguments.model, model_name_or_path=ours(arguments.model.model_name_or_path))
    pruning = dataclasses.replace(
        arguments.pruning, distillation_path=ours(arguments.pruning.distillation_path)
    )
    return dataclasses.replace(arguments, model=model, pruning=pruning)


def _content(path: str) -> int:
    """A number that another checkpoint, or the same one with other weights, doesn't have."""
    folder = Path(path)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    facts = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    return zlib.crc32(repr((str(folder.resolve()) if files else path, facts)).encode())


def choose_tokenizer(arguments: Arguments, tokens: bool) -> PreTrainedTokenizerBase:
    model, data = arguments.model, arguments.data
    task = TASKS.get(get_task_name(data.task_name or ""))
    if (
        model.tokenizer_name is None
        and model.model_name_or_path is None
        and task is not None
        and task.folder is None
    ):
        return toy_tokenizer()
    if model.tokenizer_name is None and model.model_name_or_path is None:
        return load_tokenizer(default_tokenizer(model.config_name), words=tokens)
    return load_tokenizer(model.tokenizer_name, model.model_name_or_path, words=tokens)


def check_vocabulary(model: PrumuxPreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {model.config.vocab_size}: "
            "name the tokenizer that belongs to the model with --tokenizer_name"
        )
    if model.config.pad_token_id not in (None, tokenizer.pad_token_id):
        raise UserError(
            f"the tokenizer pads with token {tokenizer.pad_token_id}, the model with {model.config.pad_token_id}: name "
            "the tokenizer that belongs to the model with --tokenizer_name"
        )


def check_batch(rows: int, num_instances: int) -> None:
    if rows % num_instances:
        raise UserError(
            f"a batch of {rows} rows can't form groups of {num_instances}: give --per_device_train_batch_size a "
            f"multiple of {num_instances}"
        )
