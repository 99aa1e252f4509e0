"""An exported classifier gives the model's logits in ONNX Runtime and is as small as its parameters."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from prumux import Masks, PrumuxForSequenceClassification, UserError, compact
from prumux.__main__ import main
from prumux.data.toy import toy_tokenizer
from prumux.inference.export import FILE, export_onnx
from prumux.models.demultiplexers import DEMULTIPLEXERS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def logits_of(folder, ids, mask):
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    names = {item.name for item in session.get_inputs()}
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return torch.from_numpy(session.run(None, {n: v.numpy() for n, v in inputs.items() if n in names})[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        *({"num_instances": 2, "demuxing_variant": demuxing} for demuxing in DEMULTIPLEXERS),
        {"num_instances": 3, "attend_padding": True, "first_token_id": 3, "use_token_types": False},
        {"num_instances": 2, "muxing_variant": "random_ortho"},
        {"num_instances": 2, "muxing_variant": "contextual", "demuxing_variant": "index"},
        {"num_instances": 1},
    ],
    ids=str,
)
def test_the_models_logits(tiny, rows, tmp_path, fields):
    model = PrumuxForSequenceClassification(tiny(**fields)).eval()
    assert export_onnx(model, tmp_path / "onnx") <= 1e-4
    for groups in (1, 5):
        ids, mask = rows(groups * model.config.num_instances, 9)
        with torch.no_grad():
            theirs = model(ids, mask).logits
        torch.testing.assert_close(logits_of(tmp_path / "onnx", ids, mask), theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_pruned_model_is_smaller_in_proportion(tiny, tmp_path):
    config = tiny(
        num_instances=2, vocab_size=60, hidden_size=128, dense_hidden_size=None, intermediate_size=512
    )
    dense = PrumuxForSequenceClassification(config).eval()
    masks = Masks(head_layer=torch.zeros(2), intermediate=(torch.arange(1024) < 100).float().expand(2, -1))
    pruned = compact(dense, masks)
    sizes = {}
    for name, model in {"dense": dense, "pruned": pruned}.items():
        export_onnx(model, tmp_path / name)
        sizes[name] = (tmp_path / name / FILE).stat().st_size
    counted = [sum(p.numel() for p in model.state_dict().values()) for model in (pruned, dense)]
    assert sizes["pruned"] / sizes["dense"] == pytest.approx(counted[0] / counted[1], rel=0.2)


@pytest.mark.slow
def test_the_command(tiny, tmp_path, capsys):
    tokenizer = toy_tokenizer()
    model = PrumuxForSequenceClassification(tiny(num_instances=2, vocab_size=len(tokenizer)))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    main(["export", str(tmp_path / "model"), str(tmp_path / "onnx")])
    assert "ONNX Runtime's logits differ by" in capsys.readouterr().out
    assert {FILE, "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "onnx").iterdir()}
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "model"), str(tmp_path / "onnx")])
    assert end.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_without_the_packages(tiny, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"not installed: pip install -e '.\[onnx\]'"):
        export_onnx(PrumuxForSequenceClassification(tiny()), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_what_can_not_be_exported(tiny, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with pytest.raises(UserError, match="BertForSequenceClassification is no PruMUX classifier: convert it"):
        export_onnx(BertForSequenceClassification(BertConfig(**shape)), tmp_path / "onnx")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="exists already: choose another folder"):
        export_onnx(PrumuxForSequenceClassification(tiny()), ".")
