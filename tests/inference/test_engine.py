"""The engine gives the model's own logits: every variant, every structure, whatever the batch."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from prumux import (
    Masks,
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
    UserError,
    compact,
    compile_for_inference,
)
from prumux.data.toy import toy_tokenizer
from prumux.inference import engine as engine_module
from prumux.models.demultiplexers import DEMULTIPLEXERS
from prumux.models.multiplexers import MULTIPLEXERS


def build(config, model_class=PrumuxForSequenceClassification):
    """A model none of whose parameters is at a value that hides a mistake."""
    model = model_class(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def engine_of(model, **options):
    return compile_for_inference(model, **{"compile": False, "device": "cpu", "progress": False} | options)


def same(engine, model, ids, mask=None, **inputs) -> None:
    with torch.no_grad():
        theirs = model(ids, mask, **inputs).logits
    torch.testing.assert_close(engine(ids, mask, **inputs), theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("muxing", MULTIPLEXERS)
@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
@pytest.mark.parametrize("instances", [2, 5])
@pytest.mark.parametrize("attend_padding", [False, True])
def test_every_variant(tiny, rows, muxing, demuxing, instances, attend_padding):
    config = tiny(
        num_instances=instances,
        muxing_variant=muxing,
        demuxing_variant=demuxing,
        attend_padding=attend_padding,
    )
    model = build(config)
    engine = engine_of(model)
    ids, mask = rows(3 * instances)
    same(engine, model, ids, mask)
    same(engine, model, ids)
    same(engine, model, ids, mask, token_type_ids=(ids % 2))


@pytest.mark.parametrize(
    "fields",
    [
        {"embed_twice": False},
        {"first_token_id": 3},
        {"first_token_id": 3, "demuxing_variant": "index"},
        {"use_token_types": False},
        {"position_offset": 2, "pad_token_id": 1},
        {"position_offset": 2, "pad_token_id": 1, "demuxing_variant": "index", "first_token_id": 3},
        {"multiplex_single": True, "num_instances": 1},
        {"num_instances": 1},
        {"num_labels": 1},
        {"num_hidden_demux_layers": 2},
        {"learn_muxing": True},
        {"retrieval_loss_coeff": 0.1},
        {"classifier_transform": True},
    ],
    ids=str,
)
def test_every_setting(tiny, rows, fields):
    model = build(tiny(**{"num_instances": 2, "num_labels": 3} | fields))
    ids, mask = rows(6)
    ids = torch.where(mask.bool(), ids.clamp_min(4), model.config.pad_token_id)
    same(engine_of(model), model, ids, mask)
    same(engine_of(model), model, ids, mask, token_type_ids=(ids % 2))


@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
@pytest.mark.parametrize("instances", [1, 2])
def test_tokens(tiny, rows, demuxing, instances):
    config = tiny(num_instances=instances, demuxing_variant=demuxing, num_labels=4)
    model = build(config, PrumuxForTokenClassification)
    ids, mask = rows(4)
    same(engine_of(model), model, ids, mask)


DEGENERATE = {
    "no attention": Masks(head_layer=torch.zeros(2)),
    "attention in the first layer only": Masks(head_layer=torch.tensor([1.0, 0.0])),
    "no FFN": Masks(mlp=torch.zeros(2)),
    "nothing at all": Masks(head_layer=torch.zeros(2), mlp=torch.zeros(2)),
    "one hidden dimension": Masks(hidden=torch.eye(16)[3]),
    "one head, odd widths": Masks(
        head=torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 1]]), hidden=(torch.arange(16) % 5 > 0).float()
    ),
    "soft": Masks(hidden=torch.linspace(0.1, 1, 16), intermediate=torch.rand(2, 24)),
}


@pytest.mark.parametrize("masks", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
def test_degenerate_structures(tiny, rows, masks, demuxing):
    for instances in (1, 2):
        model = compact(build(tiny(num_instances=instances, demuxing_variant=demuxing)), masks)
        ids, mask = rows(4)
        same(engine_of(model), model, ids, mask)


@pytest.mark.parametrize("attend_padding", [False, True])
@pytest.mark.parametrize("buckets", [None, (4, 16)])
def test_ragged_groups_chunks_and_buckets(tiny, rows, attend_padding, buckets):
    """Missing rows are copies of the last group's own; chunks and padding to a bucket change nothing."""
    model = build(tiny(num_instances=3, attend_padding=attend_padding))
    engine = engine_of(model, chunk_groups=2, buckets=buckets)
    for count in (1, 2, 3, 4, 7, 11, 12):
        ids, mask = rows(count)
        filled = (
            [*range(count), *[count - count % 3 + i % (count % 3) for i in range(-count % 3)]]
            if count % 3
            else range(count)
        )
        with torch.no_grad():
            whole_mask = mask[list(filled)].clone()
            whole_mask[count:] = 0
            theirs = model(ids[list(filled)], whole_mask).logits[:count]
        torch.testing.assert_close(engine(ids, mask), theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("instances", [1, 2])
def test_a_group_without_any_token(tiny, rows, instances):
    model = build(tiny(num_instances=instances))
    ids, mask = rows(4)
    mask[:instances] = 0
    same(engine_of(model), model, ids, mask)


def test_modes_and_settings_of_the_model_are_its_own(tiny, rows):
    model = build(tiny(num_instances=2)).train()
    model.bert.embeddings.eval()
    engine = engine_of(model)
    assert model.training
    assert not model.bert.embeddings.training
    ids, mask = rows(4)
    before = engine(ids, mask)
    model.config.attend_padding = True
    assert torch.equal(engine(ids, mask), before)


def test_padding_that_is_attended_is_not_trimmed(tiny):
    tokenizer = toy_tokenizer()
    model = build(tiny(num_instances=2, vocab_size=len(tokenizer), attend_padding=True))
    engine = engine_of(model, tokenizer=tokenizer)
    short = engine.predict(TEXTS, max_seq_length=20, progress=False)
    fixed = engine.predict(TEXTS, max_seq_length=20, length_bucketing=False, progress=False)
    np.testing.assert_array_equal(short, fixed)


def test_bfloat16_is_close_and_float16_needs_a_gpu(tiny, rows):
    model = build(tiny(num_instances=2))
    ids, mask = rows(4)
    with torch.no_grad():
        theirs = model(ids, mask).logits
    ours = engine_of(model, dtype="bfloat16")(ids, mask)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()
    with pytest.raises(UserError, match="float16 has no fast arithmetic on a CPU"):
        engine_of(model, dtype="float16")


@pytest.mark.parametrize("muxing", MULTIPLEXERS)
@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
def test_float16_is_close_where_it_is_allowed(tiny, rows, muxing, demuxing, monkeypatch):
    """A CPU computes in float16 too, only slowly: what a GPU would give, but for the order of its sums."""
    monkeypatch.setattr(engine_module, "resolve_dtype", lambda dtype, device: torch.float16)
    model = build(tiny(num_instances=2, muxing_variant=muxing, demuxing_variant=demuxing))
    ids, mask = rows(7)
    mask[:2] = 0  # a group without any token
    with torch.no_grad():
        theirs = model(ids[:6], mask[:6]).logits
    ours = engine_of(model, dtype="float16")(ids, mask)
    assert (ours[:6] - theirs).abs().max() < 0.02 * theirs.abs().max()
    assert ours.isfinite().all()


@pytest.mark.parametrize("instances", [1, 2])
def test_int8_is_close(tiny, rows, instances):
    model = build(tiny(num_instances=instances))
    ids, mask = rows(8)
    with torch.no_grad():
        theirs = model(ids, mask).logits
    assert (engine_of(model, dtype="int8")(ids, mask) - theirs).abs().max() < 0.1 * theirs.abs().max()


def test_the_model_is_left_as_it_was(tiny, rows):
    model = build(tiny(num_instances=2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = engine_of(model, dtype="bfloat16")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    ids, mask = rows(2)
    first = engine(ids, mask)
    with torch.no_grad():
        model.classifier.bias.add_(100)
    assert torch.equal(engine(ids, mask), first)


def test_bad_input(tiny):
    model = build(tiny(num_instances=2))
    engine = engine_of(model)
    with pytest.raises(UserError, match=r"rows of 41 tokens are too long for this model \(40\)"):
        engine(torch.ones(2, 41, dtype=torch.long))
    with pytest.raises(UserError, match="no rows"):
        engine(torch.ones(0, 4, dtype=torch.long))
    with pytest.raises(UserError, match="outside the vocabulary of 50 tokens"):
        engine(torch.full((2, 4), -1))
    with pytest.raises(UserError, match="attention_mask has shape"):
        engine(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(UserError, match="chunk_groups 0"):
        engine_of(model, chunk_groups=0)
    with pytest.raises(UserError, match=r"unknown dtype .torch\.float64"):
        engine_of(model, dtype=torch.float64)
    with pytest.raises(UserError, match="PrumuxForMaskedLM has no fast forward"):
        engine_of(build(tiny(), PrumuxForMaskedLM))
    whole = torch.ones(2, 4, dtype=torch.long)
    for wrong in (whole.float(), whole[0], whole.tolist(), {"input_ids": whole}):
        with pytest.raises(UserError, match="must be a tensor of whole numbers"):
            engine(wrong)
    with pytest.raises(UserError, match="token_type_ids outside the 2 types"):
        engine(whole, None, whole + 1)
    for buckets in (32, [], [0]):
        with pytest.raises(UserError, match="expected a list of lengths"):
            engine_of(model, buckets=buckets)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not all finite: they are damaged"):
        engine_of(model)


def test_a_forward_that_differs_is_refused(tiny, monkeypatch):
    from prumux.inference.forward import FastForward

    original = FastForward.forward
    monkeypatch.setattr(FastForward, "forward", lambda self, *inputs: original(self, *inputs) + 0.5)
    with pytest.raises(UserError, match=r"differ by 0\.5 from the model's .*use float32, or the plain model"):
        engine_of(build(tiny(num_instances=2)))


@pytest.mark.slow
@pytest.mark.parametrize("demuxing", ["index_pos", "index"])
def test_compiled(tiny, rows, demuxing):
    """One compilation serves batches of any size and length."""
    model = build(tiny(num_instances=2, demuxing_variant=demuxing, num_hidden_layers=1))
    engine = engine_of(model, compile=True, chunk_groups=3)
    assert engine.compiled
    for count, length in ((6, 7), (5, 7), (8, 5), (2, 9), (1, 2)):
        ids, mask = rows(count, length)
        if count % 2 == 0:
            same(engine, model, ids, mask)


@pytest.mark.slow
def test_calls_of_any_size_wait_for_no_compiler(tiny, rows):
    """N is as large as the groups that might be compiled first; a tokenizer's zeros are no token types."""
    model = build(tiny(num_instances=3, num_hidden_layers=1))
    engine = engine_of(model, compile=True, chunk_groups=4)
    same(
        engine, model, *rows(3, 5), token_type_ids=torch.ones(3, 5, dtype=torch.long)
    )  # the first pairs compile
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for count, length in ((3, 6), (6, 6), (9, 3), (12, 9), (1, 1), (3, 24)):
            ids = torch.ones(count, length, dtype=torch.long)
            engine(input_ids=ids, attention_mask=ids, token_type_ids=torch.zeros_like(ids))
            engine(ids, None, ids)
        assert engine.compiled
    finally:
        torch.compiler.set_stance("default")


def test_a_call_that_fails_leaves_the_compiled_code(tiny, rows, monkeypatch):
    model = build(tiny(num_instances=2))
    engine = engine_of(model)
    engine.compiled = True  # the compiled code stands for itself

    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "_run", fails)
    monkeypatch.setattr(engine, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine._call(torch.zeros(1, 2, 3, dtype=torch.long))
    assert engine.compiled


@pytest.mark.slow
def test_buckets_are_compiled_when_the_engine_is_built(tiny, rows):
    """No call of a length up to the largest bucket waits for the compiler."""
    engine = engine_of(
        build(tiny(num_instances=2, num_hidden_layers=1)), compile=True, chunk_groups=2, buckets=(4, 7)
    )
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for count, length in ((2, 3), (9, 4), (1, 7), (6, 5)):
            engine(*rows(count, length))
        assert engine.compiled
        engine(*rows(2, 9))
        assert not engine.compiled  # what the check above would see
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.slow
def test_many_engines_in_one_process(tiny):
    """The compiler limits how often one piece of code is compiled; an engine doesn't count for another."""
    model = build(
        tiny(num_instances=2, num_hidden_layers=0, vocab_size=20, hidden_size=4, num_attention_heads=1)
    )
    with torch._dynamo.config.patch(recompile_limit=2):
        engines = [engine_of(model, compile=True) for _ in range(3)]
    assert all(engine.compiled for engine in engines)


def test_without_a_compiler_it_runs_with_one_warning(tiny, rows, monkeypatch, caplog):
    def missing(*args, **kwargs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: missing)
    model = build(tiny(num_instances=2))
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model, compile=True)
    assert not engine.compiled
    assert [record.message for record in caplog.records] == [
        "no compiler for the fast forward (no C++ compiler found): running it without, slower"
    ]
    same(engine, model, *rows(4))


# ---- text


@pytest.fixture
def reader(tiny):
    tokenizer = toy_tokenizer()
    return build(tiny(num_instances=2, vocab_size=len(tokenizer))), tokenizer


TEXTS = [
    "the plot was good",
    "the cast was not very funny and the plot was bad",
    "good",
    "the cast was bad",
] * 3


def test_predict_keeps_the_order(reader):
    """N rows of a group influence one another, so alone with itself is how a text is compared."""
    model, tokenizer = reader
    engine = engine_of(model, tokenizer=tokenizer)
    texts = [text for text in TEXTS[:4] for _ in range(2)]  # each text beside itself, in any order by length
    for inputs in (texts, iter(texts), np.array(texts).tolist()):
        logits = engine.predict(inputs, batch_size=2, progress=False)
        assert logits.shape == (8, 2)
        for i, text in enumerate(texts):
            batch = tokenizer([text, text], return_tensors="pt")
            with torch.no_grad():
                alone = model(batch["input_ids"]).logits[i % 2].numpy()
            np.testing.assert_allclose(logits[i], alone, rtol=1e-3, atol=1e-4)


def test_predict_as_the_papers_protocol(reader):
    model, tokenizer = reader
    engine = engine_of(model, tokenizer=tokenizer)
    logits = engine.predict(TEXTS, length_bucketing=False, max_seq_length=20, progress=False)
    batch = tokenizer(TEXTS, return_tensors="pt", padding="max_length", max_length=20)
    with torch.no_grad():
        theirs = model(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(logits, theirs, rtol=1e-3, atol=1e-4)


def test_predict_pairs_and_datasets(reader):
    datasets = pytest.importorskip("datasets")
    model, tokenizer = reader
    engine = engine_of(model, tokenizer=tokenizer)
    pairs = [(text, "the plot was bad") for text in TEXTS]
    assert engine.predict(pairs, progress=False).shape == (12, 2)
    column = datasets.Dataset.from_dict({"text": TEXTS})["text"]
    np.testing.assert_array_equal(
        engine.predict(column, progress=False), engine.predict(TEXTS, progress=False)
    )


def test_predict_refuses(reader, tiny):
    model, tokenizer = reader
    with pytest.raises(UserError, match="no texts"):
        engine_of(model, tokenizer=tokenizer).predict([])
    with pytest.raises(UserError, match="no tokenizer"):
        engine_of(model).predict(TEXTS)
    with pytest.raises(UserError, match="batch_size is 0"):
        engine_of(model, tokenizer=tokenizer).predict(TEXTS, batch_size=0)
    for texts in ("one text", {"text": TEXTS}, [None], [("a", "b", "c")], ["a", ("b", "c")]):
        with pytest.raises(UserError, match=r"texts themselves|is no text to predict"):
            engine_of(model, tokenizer=tokenizer).predict(texts)
    with pytest.raises(UserError, match="for sentence classifiers"):
        engine_of(build(tiny(), PrumuxForTokenClassification)).predict(TEXTS)


def test_a_tokenizer_by_its_folder(reader, tmp_path):
    model, tokenizer = reader
    tokenizer.save_pretrained(tmp_path)
    expected = engine_of(model, tokenizer=tokenizer).predict(TEXTS)
    np.testing.assert_array_equal(engine_of(model, tokenizer=str(tmp_path)).predict(TEXTS), expected)
