"""The model as a Hugging Face user meets it: plain BERT at N=1, groups of N, masks on padding, saving and loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from prumux import (
    Masks,
    PrumuxConfig,
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxModel,
    compact,
    compile_for_inference,
)
from prumux.models.demultiplexers import DEMULTIPLEXERS, Mlp
from prumux.models.heads import classification_loss
from prumux.models.multiplexers import MULTIPLEXERS, GaussianHadamard

VARIANTS = [(muxing, demuxing) for muxing in MULTIPLEXERS for demuxing in DEMULTIPLEXERS]


def classifier(config: PrumuxConfig) -> PrumuxForSequenceClassification:
    return PrumuxForSequenceClassification(config).eval()


def test_one_instance_is_bert(tmp_path, rows):
    bert = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=40,
            num_labels=3,
        )
    ).eval()
    bert.save_pretrained(tmp_path)
    ours = PrumuxForSequenceClassification.from_pretrained(tmp_path, num_instances=1).eval()
    ids, mask = rows(6)
    types = torch.randint(0, 2, ids.shape)
    with torch.no_grad():
        expected = bert(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
        got = ours(ids, mask, types, output_hidden_states=True)
    for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert (a - b)[mask.bool()].abs().max() <= 1e-5
    assert (got.logits - expected.logits).abs().max() <= 1e-5


@pytest.mark.parametrize(("muxing", "demuxing"), VARIANTS)
@pytest.mark.parametrize("learned", [False, True])
def test_every_variant_trains(tiny, rows, muxing, demuxing, learned):
    config = tiny(
        num_instances=2,
        muxing_variant=muxing,
        demuxing_variant=demuxing,
        learn_muxing=learned,
        retrieval_loss_coeff=0.1,
    )
    model = PrumuxForSequenceClassification(config)
    ids, mask = rows(8)
    labels = torch.randint(0, 2, (8,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.bert.multiplexer.vectors.detach().clone()
    losses = []
    for _ in range(8):
        loss = model(ids, mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(model.bert.multiplexer.vectors, before) != learned


@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
def test_longer_padding_changes_nothing(tiny, rows, demuxing):
    model = classifier(tiny(num_instances=2, demuxing_variant=demuxing))
    ids, mask = rows(4)
    wider = torch.nn.functional.pad(ids, (0, 5)), torch.nn.functional.pad(mask, (0, 5))
    with torch.no_grad():
        assert torch.allclose(model(ids, mask).logits, model(*wider).logits, atol=1e-6)


def test_attended_padding_is_a_compatibility_setting(tiny, rows):
    model = classifier(tiny(num_instances=2, attend_padding=True))
    ids, mask = rows(4)
    with torch.no_grad():
        assert torch.equal(model(ids, mask).logits, model(ids).logits)


@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
def test_groups_do_not_touch_each_other_and_inputs_stay(tiny, rows, demuxing):
    model = classifier(tiny(num_instances=2, demuxing_variant=demuxing))
    ids, mask = rows(6)
    original = ids.clone()
    with torch.no_grad():
        logits = model(ids, mask).logits
        changed = ids.clone()
        changed[0, 1:] = 3
        other = model(changed, mask).logits
    assert torch.equal(ids, original)
    assert torch.allclose(logits[2:], other[2:], atol=1e-6)
    assert not torch.allclose(logits[:2], other[:2], atol=1e-4)


def test_filled_rows_do_not_count_in_the_loss(tiny, rows):
    model = classifier(tiny(num_instances=2))
    ids, mask = rows(4)
    labels = torch.tensor([1, 0, 1, -100])
    loss = model(ids, mask, labels=labels).loss
    logits = model(ids, mask).logits
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits[:3], labels[:3]))
    scores = classifier(tiny(num_instances=2, num_labels=1))
    loss = scores(ids, mask, labels=torch.tensor([0.5, 2.0, 1.0, torch.nan])).loss
    expected = (scores(ids, mask).logits[:3, 0] - torch.tensor([0.5, 2.0, 1.0])).square().mean()
    assert torch.allclose(loss, expected)


def test_wrong_inputs_name_the_remedy(tiny, rows):
    model = classifier(tiny(num_instances=2))
    ids, mask = rows(7)
    with pytest.raises(ValueError, match="batch of 7 rows can't form groups of 2: use GroupingCollator"):
        model(ids, mask)
    with pytest.raises(ValueError, match="max_position_embeddings 40"):
        model(torch.ones(2, 41, dtype=torch.long))
    with pytest.raises(ValueError, match="choose one of: binary_hadamard, gaussian_attention_v2"):
        classifier(tiny(num_instances=2, muxing_variant="gaussian"))
    with pytest.raises(ValueError, match="num_instances must not exceed the hidden size"):
        classifier(tiny(num_instances=17, muxing_variant="binary_hadamard"))
    with pytest.raises(Exception, match="num_instances is 0"):
        tiny(num_instances=0)


@pytest.mark.parametrize(("muxing", "demuxing"), VARIANTS)
@pytest.mark.parametrize("learned", [False, True])
def test_saved_and_loaded_by_the_auto_classes(tiny, rows, tmp_path, muxing, demuxing, learned):
    model = classifier(
        tiny(
            num_instances=2,
            muxing_variant=muxing,
            demuxing_variant=demuxing,
            learn_muxing=learned,
            num_labels=3,
        )
    )
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids, mask = rows(4)
    with torch.no_grad():
        assert (loaded(ids, mask).logits - model(ids, mask).logits).abs().max() <= 1e-6
    assert loaded.bert.multiplexer.vectors.requires_grad == learned


def test_masked_language_model(tiny, rows, tmp_path):
    model = PrumuxForMaskedLM(tiny(num_instances=2, retrieval_loss_coeff=0.5)).eval()
    ids, mask = rows(4)
    labels = torch.where((torch.rand(ids.shape) < 0.4) & mask.bool(), ids, -100)
    labels[0, 0] = ids[0, 0]
    with torch.no_grad():
        full = model(ids, mask).logits
        output = model(ids, mask, labels=labels)
    assert full.shape == (4, 7, 50)
    assert torch.allclose(output.logits, full[labels != -100], atol=1e-5)
    assert torch.allclose(output.loss, output.task_loss + 0.5 * output.retrieval_loss)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert (loaded(ids, mask).logits - full).abs().max() <= 1e-6
    assert loaded.lm_head.decoder.weight is loaded.bert.embeddings.word_embeddings.weight


def test_multiplexing_vectors():
    sizes = {"num_instances": 3, "hidden_size": 12, "norm": 5.0, "epsilon": 0.3, "learned": False}
    gaussian = MULTIPLEXERS["gaussian_hadamard"](**sizes).initial_vectors()
    assert torch.allclose(gaussian.norm(dim=-1), torch.full((3,), 5.0))
    binary = MULTIPLEXERS["binary_hadamard"](**sizes).initial_vectors()
    assert binary.sum(-1).tolist() == [5, 6, 5]
    assert binary.any(dim=0).all()
    ortho = MULTIPLEXERS["random_ortho"](**sizes).initial_vectors()
    assert torch.allclose(ortho @ ortho.mT, torch.eye(12).expand(3, -1, -1), atol=1e-5)


@pytest.mark.parametrize(("instances", "width"), [(40, 768), (39, 256), (7, 16), (3, 12), (5, 600)])
def test_no_instance_is_left_without_dimensions(instances, width):
    sizes = {"num_instances": instances, "hidden_size": width, "epsilon": 0.3, "learned": False}
    vectors = MULTIPLEXERS["binary_hadamard"](**sizes).initial_vectors()
    assert vectors.any(dim=1).all()
    assert vectors.any(dim=0).all()


def test_a_batch_without_masked_tokens_has_no_loss(tiny, rows):
    model = PrumuxForMaskedLM(tiny(num_instances=2))
    ids, mask = rows(2)
    assert model(ids, mask, labels=torch.full_like(ids, -100)).loss == 0


def test_low_rank_matrices_read_disjoint_subspaces():
    sizes = {"num_instances": 3, "hidden_size": 13, "learned": False}
    maps = MULTIPLEXERS["random_ortho_low_rank"](**sizes).initial_vectors()
    assert torch.linalg.matrix_rank(maps, atol=1e-4).tolist() == [4, 4, 4]
    assert torch.allclose(maps[0] @ maps[1].T, torch.zeros(13, 13), atol=1e-5)
    assert torch.allclose(maps[0].T @ maps[1], torch.zeros(13, 13), atol=1e-5)
    with pytest.raises(ValueError, match="num_instances must not exceed the hidden size"):
        MULTIPLEXERS["random_ortho_low_rank"](**sizes | {"num_instances": 14}).initial_vectors()


def test_a_contextual_row_sees_its_own_tokens_only(tiny):
    """What stands at a row's padding changes no position at which every row has a token."""
    model = PrumuxModel(tiny(num_instances=2, muxing_variant="contextual")).eval()
    assert model.config.muxing_variant == "gaussian_attention_v2"
    embedded = torch.randn(1, 2, 6, 16)
    attended = torch.arange(6) < torch.tensor([[[5], [3]]])  # the last position has no token of any row
    noise = torch.where(attended.unsqueeze(-1), embedded, torch.randn_like(embedded))
    with torch.no_grad():
        mix = model.multiplexer
        torch.testing.assert_close(mix(embedded, attended)[:, :3], mix(noise, attended)[:, :3])
        assert mix(noise, attended).isfinite().all()
        assert (mix(embedded)[:, :3] - mix(noise)[:, :3]).abs().max() > 1e-3
        flipped = mix(embedded.flip(1), attended.flip(1))
        assert (flipped - mix(embedded, attended)).abs().max() > 1e-3  # slots are told apart


@pytest.mark.parametrize(
    ("alias", "name"), [("rsa", "index_pos"), ("rsa_demux", "index_pos"), ("index_embeddings", "index")]
)
def test_published_names_of_demultiplexers(tiny, alias, name):
    assert tiny(num_instances=2, demuxing_variant=alias).demuxing_variant == name


def test_adding_a_variant_is_a_class_and_an_entry(tiny, rows, monkeypatch, tmp_path):
    """Training, compaction, folders and the engine take both without knowing them."""

    class Alternating(GaussianHadamard):
        """Signs instead of gaussian vectors."""

        def initial_vectors(self):
            return torch.randint(2, self.vectors.shape).float() * 2 - 1

    class Sum(Mlp):
        """The usual one plus what it read."""

        def forward(self, hidden, prefix, scale=None):
            return super().forward(hidden, prefix, scale) + 1

    monkeypatch.setitem(MULTIPLEXERS, "alternating", Alternating)
    monkeypatch.setitem(DEMULTIPLEXERS, "sum", Sum)
    model = PrumuxForSequenceClassification(
        tiny(num_instances=2, muxing_variant="alternating", demuxing_variant="sum", learn_muxing=True)
    )
    ids, mask = rows(4)
    model(ids, mask, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert model.bert.multiplexer.vectors.grad.abs().sum() > 0
    model.eval()
    hidden = torch.ones(16)
    hidden[3] = 0
    smaller = compact(model, Masks(hidden=hidden))
    smaller.save_pretrained(tmp_path)
    loaded = PrumuxForSequenceClassification.from_pretrained(tmp_path).eval()
    engine = compile_for_inference(loaded, compile=False, progress=False)
    with torch.no_grad():
        expected = model(ids, mask, masks=Masks(hidden=hidden)).logits
        torch.testing.assert_close(loaded(ids, mask).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(engine(ids, mask), expected, rtol=1e-4, atol=1e-5)


def test_markers_need_room(tiny):
    with pytest.raises(
        ValueError, match=r"40 markers of index demultiplexing leave no room .*smaller num_instances"
    ):
        PrumuxModel(tiny(num_instances=40, demuxing_variant="index"))


def test_retrieval_is_counted_per_slot(tiny, rows):
    torch.manual_seed(0)
    model = PrumuxForMaskedLM(tiny(num_instances=3, retrieval_loss_coeff=1.0, task_loss_coeff=0.0)).eval()
    ids, mask = rows(6)
    output = model(ids, mask, labels=torch.full_like(ids, -100))
    assert output.retrieval_slots.shape == (3, 2)
    named, asked = output.retrieval_slots.sum(0)
    assert 0 < asked <= mask.view(2, 3, -1).any(1).sum()
    assert output.retrieval_accuracy == named / asked


def test_retrieval_asks_for_no_token_of_a_filled_row(tiny):
    model = PrumuxForMaskedLM(tiny(num_instances=2, retrieval_loss_coeff=1.0, task_loss_coeff=0.0)).eval()
    ids = torch.tensor([[2, 9, 3], [2, 9, 3]])
    nothing = model(ids, attention_mask=torch.zeros_like(ids), labels=torch.full_like(ids, -100))
    assert nothing.retrieval_loss == 0  # not the NaN of an empty mean


@pytest.mark.parametrize("demuxing", ["index_pos", "mlp", "index"])
def test_padding_does_not_matter_to_a_ragged_contextual_group(tiny, demuxing):
    """The filled row of a group adds the same to the mixture, however far it is padded."""
    model = PrumuxForSequenceClassification(
        tiny(num_instances=2, muxing_variant="contextual", demuxing_variant=demuxing)
    ).eval()
    row = torch.tensor([[2, 7, 8, 9, 3]])
    logits = []
    for padding in (0, 3, 9):
        ids = nn.functional.pad(row, (0, padding)).repeat(2, 1)
        mask = torch.zeros_like(ids)
        mask[0, :5] = 1  # the second row only fills the group
        with torch.no_grad():
            logits.append(model(input_ids=ids, attention_mask=mask).logits[0])
    torch.testing.assert_close(logits[1], logits[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits[2], logits[0], atol=1e-6, rtol=1e-5)


def test_any_number_is_a_score():
    labels = torch.tensor([-100.0, 2.0, torch.nan])  # the last row fills its group
    assert classification_loss(torch.zeros(3, 1), labels) == pytest.approx((100**2 + 2**2) / 2)
    assert classification_loss(torch.zeros(2, 2), torch.tensor([0, -100])) == pytest.approx(0.6931, abs=1e-4)
