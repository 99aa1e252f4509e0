"""`Teaching`: what is remembered of a teacher is what it would say again."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError

from prumux import PrumuxForSequenceClassification, PrumuxForTokenClassification
from prumux.errors import UserError
from prumux.training.teaching import Teaching


@pytest.mark.parametrize("kind", [PrumuxForSequenceClassification, PrumuxForTokenClassification])
@pytest.mark.parametrize("room", [1e6, 1000])  # bytes: for all rows, for some
def test_remembered_rows_are_the_teachers(tiny, rows, kind, room):
    teacher = kind(tiny(num_labels=3)).eval()
    ids, mask = rows(6)
    mask[5] = 0  # a filled row
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    teaching = Teaching(teacher, room)
    real = mask.bool()
    for order in (torch.arange(6), torch.tensor([3, 0, 5, 1, 4, 2])):
        batch = {name: value[order] for name, value in features.items()}
        said = teaching(batch)
        expected = teacher(**batch, output_hidden_states=True)
        tokens = real[order]
        states = said.hidden_states[-1][tokens]
        assert torch.allclose(states, expected.hidden_states[-1][tokens], atol=0.03)  # kept in half precision
        counted = tokens if kind is PrumuxForTokenClassification else tokens.any(1)
        assert torch.allclose(said.logits[counted], expected.logits[counted], atol=1e-5)


def test_a_remembered_epoch_asks_nothing(tiny, rows):
    teacher = PrumuxForSequenceClassification(tiny()).eval()
    ids, mask = rows(6)
    teaching = Teaching(teacher, 1e6)
    teaching({"input_ids": ids, "attention_mask": mask})
    teacher.forward = lambda **_: pytest.fail("the teacher was asked again")
    teaching({"input_ids": ids.flip(0), "attention_mask": mask.flip(0)})


def test_many_rows_are_asked_about_by_length(tiny, rows):
    teacher = PrumuxForSequenceClassification(tiny()).eval()
    ids, mask = rows(80)
    expected = teacher(ids, mask, output_hidden_states=True)
    asked = []
    forward = teacher.forward
    teacher.forward = lambda **given: asked.append(given["attention_mask"]) or forward(**given)
    said = Teaching(teacher)({"input_ids": ids, "attention_mask": mask})
    assert len(asked) == 3
    assert sum(piece.numel() for piece in asked) < mask.numel()
    real = mask.bool()
    assert torch.allclose(said.logits[real.any(1)], expected.logits[real.any(1)], atol=1e-5)
    assert torch.allclose(said.hidden_states[-1][real], expected.hidden_states[-1][real], atol=0.03)


def test_every_layer_on_request(tiny, rows):
    teacher = PrumuxForSequenceClassification(tiny()).eval()
    ids, mask = rows(6)
    said = Teaching(teacher, layers=True)({"input_ids": ids, "attention_mask": mask})
    expected = teacher(ids, mask, output_hidden_states=True)
    assert all(torch.equal(a, b) for a, b in zip(said.hidden_states, expected.hidden_states, strict=True))


def test_a_multiplexed_teacher_depends_on_the_group(tiny, rows):
    teacher = PrumuxForSequenceClassification(tiny(num_instances=2)).eval()
    ids, mask = rows(6)
    teaching = Teaching(teacher, 1e6)
    for order in (torch.arange(6), torch.tensor([3, 0, 5, 1, 4, 2])):
        said = teaching({"input_ids": ids[order], "attention_mask": mask[order]})
        assert torch.equal(said.logits, teacher(ids[order], mask[order]).logits)
        assert len(said.hidden_states) == 3


@pytest.mark.parametrize("kind", [PrumuxForSequenceClassification, PrumuxForTokenClassification])
def test_another_run_reads_what_was_saved(tiny, rows, tmp_path, kind):
    teacher = kind(tiny(num_labels=3)).eval()
    ids, mask = rows(6)
    first = Teaching(teacher, 1e6, tmp_path)
    features = {"input_ids": ids, "attention_mask": mask}
    first(features)
    first.save()
    [file] = tmp_path.iterdir()
    written = file.stat().st_mtime_ns

    second = Teaching(teacher, 1e6, tmp_path)
    forward = teacher.forward
    teacher.forward = lambda **_: pytest.fail("the teacher was asked again")
    here, there = first(features), second(features)
    assert torch.equal(here.hidden_states[-1], there.hidden_states[-1])
    assert torch.equal(here.logits, there.logits)
    second.save()
    assert file.stat().st_mtime_ns == written  # nothing new

    teacher.forward = forward
    more = {"input_ids": ids.flip(1).clamp(min=1), "attention_mask": torch.ones_like(mask)}
    second(more)
    second.save()
    assert len(Teaching(teacher, 1e6, tmp_path)._rows) == 12


def test_states_are_kept_by_the_teachers_weights(tiny, rows, tmp_path):
    ids, mask = rows(6)
    for _ in range(2):
        teaching = Teaching(PrumuxForSequenceClassification(tiny()).eval(), 1e6, tmp_path)
        teaching({"input_ids": ids, "attention_mask": mask})
        teaching.save()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    with pytest.raises(UserError, match="delete it"):
        Teaching(teaching.teacher, 1e6, tmp_path)


def test_states_are_kept_by_what_the_teacher_computes(tiny, tmp_path):
    weights = PrumuxForSequenceClassification(tiny()).state_dict()

    def file(precision: str, **changes: object) -> str:
        teacher = PrumuxForSequenceClassification(tiny(**changes)).eval()
        teacher.load_state_dict(weights)
        return str(Teaching(teacher, 1e6, tmp_path, precision)._file)

    assert file("float32") == file("float32")
    assert len({file("float32"), file("bfloat16"), file("float32", hidden_act="relu")}) == 3


def test_a_row_is_taught_the_same_whether_remembered_or_not(tiny, rows):
    ids, mask = rows(6)
    teaching = Teaching(PrumuxForSequenceClassification(tiny()).eval(), 1000)  # room for some rows
    first, second = (teaching({"input_ids": ids, "attention_mask": mask}) for _ in range(2))
    assert torch.equal(first.hidden_states[-1], second.hidden_states[-1])


def test_a_full_disk_costs_a_warning(tiny, rows, tmp_path, caplog):
    ids, mask = rows(6)
    (tmp_path / "file").write_text("in the way")
    teaching = Teaching(PrumuxForSequenceClassification(tiny()).eval(), 1e6, tmp_path / "file")
    teaching({"input_ids": ids, "attention_mask": mask})
    teaching.save()
    assert "not kept for other runs" in caplog.text


def test_a_disk_that_fills_up_costs_a_warning(tiny, rows, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("prumux.training.teaching.save_file", full)
    ids, mask = rows(6)
    teaching = Teaching(PrumuxForSequenceClassification(tiny()).eval(), 1e6, tmp_path / "states")
    teaching({"input_ids": ids, "attention_mask": mask})
    teaching.save()
    assert "not kept for other runs" in caplog.text


def test_two_runs_at_once_keep_what_both_have_seen(tiny, rows, tmp_path):
    teacher = PrumuxForSequenceClassification(tiny()).eval()
    ids, mask = rows(6)
    runs = [Teaching(teacher, 1e6, tmp_path) for _ in range(2)]
    for teaching, part in zip(runs, (slice(0, 4), slice(2, 6)), strict=True):
        teaching({"input_ids": ids[part], "attention_mask": mask[part]})
    for teaching in runs:
        teaching.save()
    assert len(Teaching(teacher, 1e6, tmp_path)._rows) == 6
