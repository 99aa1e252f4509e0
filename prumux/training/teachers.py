"""The teacher of a run: loaded, checked to fit its student, and what of it is taught."""

from __future__ import annotations

from prumux.data.loading import TaskData
from prumux.errors import UserError
from prumux.models.loading import load_model
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.distillation import LayerMap
from prumux.training.arguments import Arguments


def load_teacher(
    arguments: Arguments, data: TaskData, student: PrumuxPreTrainedModel
) -> PrumuxPreTrainedModel:
    """The model that the flags name, or the student's own start.

    Raises:
        UserError: none is named, or one that can't teach this student.
    """
    path = arguments.pruning.distillation_path or arguments.model.model_name_or_path
    if path is None:
        raise UserError(
            "pruning distils from a finetuned model: give --model_name_or_path or --distillation_path"
        )
    teacher = load_model(
        type(student),
        model_path=path,
        overrides={"retrieval_loss_coeff": 0.0},
        label_names=data.label_names,
        trained_head=True,
    )
    ours, theirs = student.config, teacher.config
    if theirs.num_instances not in (1, ours.num_instances):
        raise UserError(
            f"the teacher {path} mixes {theirs.num_instances} inputs, the student {ours.num_instances}: "
            f"name a teacher with --num_instances {ours.num_instances}, or an unmultiplexed one"
        )
    if ours.label2id != theirs.label2id:
        raise UserError(
            f"the teacher {path} orders the labels differently than the student: name a teacher of this task"
        )
    if teaches_states(arguments, student, teacher):
        if ours.is_multiplexed and theirs.hidden_size != ours.dense_hidden_size:
            raise UserError(
                f"the teacher {path} has states of {theirs.hidden_size} dimensions, the student of "
                f"{ours.dense_hidden_size}: name an unpruned teacher of the student's width"
            )
    elif ours.num_hidden_layers != theirs.num_hidden_layers:
        raise UserError(
            f"the teacher {path} has {theirs.num_hidden_layers} layers, the student {ours.num_hidden_layers}: "
            "name the model that the student was pruned from"
        )
    return teacher


def teaches_states(
    arguments: Arguments, student: PrumuxPreTrainedModel, teacher: PrumuxPreTrainedModel
) -> bool:
    """Does the teacher teach every token its state, or layers theirs.

    Raises:
        UserError: states were asked for and the teacher is multiplexed, or layers of a teacher of another kind.
    """
    mixed = teacher.config.is_multiplexed
    same_kind = mixed == student.config.is_multiplexed
    asked = arguments.pruning.distill_states
    if asked and mixed:
        raise UserError("--distill_states needs an unmultiplexed teacher: name a dense one with --teacher")
    if asked is False and not same_kind:
        raise UserError(
            "an unmultiplexed teacher can't teach a multiplexed student its layers: leave --distill_states out"
        )
    return not same_kind if asked is None else asked


def make_layer_map(student: PrumuxPreTrainedModel, teacher: PrumuxPreTrainedModel) -> LayerMap:
    """The student's dimensions are matched to the teacher's by what they were before pruning."""
    ours, theirs = student.config, teacher.config
    if ours.dense_hidden_size != theirs.dense_hidden_size:
        raise UserError(
            f"the student's hidden size (before pruning) is {ours.dense_hidden_size}, the teacher's "
            f"{theirs.dense_hidden_size}: name the model that the student was pruned from"
        )
    unknown = ours.kept_hidden is None and ours.hidden_size < ours.dense_hidden_size
    if unknown and ours.hidden_size != theirs.hidden_size:
        raise UserError(
            "it is not known which hidden dimensions the student has left: let it be its own teacher (leave out "
            "--distillation_path)"
        )
    kept = ours.kept_hidden or list(range(ours.hidden_size))
    if theirs.kept_hidden is not None:
        place = {dimension: i for i, dimension in enumerate(theirs.kept_hidden)}
        if not set(kept) <= set(place):
            raise UserError(
                "the teacher lacks hidden dimensions that the student has: name a less pruned teacher"
            )
        kept = [place[dimension] for dimension in kept]
    return LayerMap(kept, ours.hidden_size, theirs.hidden_size)
