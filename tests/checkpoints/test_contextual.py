"""MUX-PLM's contextual checkpoints against the published computation, written on Hugging Face's own layers."""

from __future__ import annotations

import json
import os

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from prumux import PrumuxForSequenceClassification, compile_for_inference, convert_checkpoint
from prumux.training.phases import run

FIRST = 101  # with which the authors' code begins every row


@pytest.fixture
def contextual(mux):
    """The multiplexed checkpoint with two layers of muxing attention; gives its folder and the layers."""
    config = json.loads((mux / "config.json").read_text()) | {"muxing_variant": "gaussian_attention_v2"}
    (mux / "config.json").write_text(json.dumps(config))
    state = torch.load(mux / "pytorch_model.bin", weights_only=True)
    shape = BertConfig(
        hidden_size=16, num_attention_heads=4, intermediate_size=24, attn_implementation="eager",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    layers = [BertLayer(shape).eval() for _ in range(2)]
    for name, layer in zip(("muxing_attention", "muxing_attention_2"), layers, strict=True):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state |= {f"{name}.{key}": value.clone() for key, value in layer.state_dict().items()}
    torch.save(state, mux / "pytorch_model.bin")
    return mux, state, layers


def published(folder, state, layers, ids, mask):
    """Logits [rows, classes] of groups of 2."""
    config = BertConfig.from_pretrained(folder)
    bert = BertModel(config, add_pooling_layer=False).eval()
    own = {name.removeprefix("bert."): value for name, value in state.items() if name.startswith("bert.")}
    bert.load_state_dict(own, strict=False)
    ids = ids.clone()
    ids[:, 0] = FIRST
    embedded = bert.embeddings(input_ids=ids)

    def extended(mask):
        return (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min

    def first(output):
        return output[0] if isinstance(output, tuple) else output

    _, length, width = embedded.shape
    context = first(layers[0](embedded, extended(mask))) + embedded
    turned = context.view(-1, 2, length, width) * state["instance_embedding"][None, :, None]
    across = turned.permute(0, 2, 1, 3).reshape(-1, 2, width)
    seen = mask.view(-1, 2, length).permute(0, 2, 1).reshape(-1, 2)
    mixed = first(layers[1](across, extended(seen)))
    mixture = (mixed + across).view(-1, length, 2, width).mean(2)
    hidden = bert(inputs_embeds=mixture, attention_mask=torch.ones(mixture.shape[:2])).last_hidden_state[
        :, :1
    ]
    gelu, linear = torch.nn.functional.gelu, torch.nn.functional.linear
    logits = []
    for key in state["demultiplexer.demux_module.demux_instance_embedding"]:
        u = torch.cat([key.expand_as(hidden), hidden], dim=-1)
        for name in ("dense_1", "dense_2"):
            weight, bias = (state[f"demultiplexer.demux_module.{name}.{part}"] for part in ("weight", "bias"))
            u = gelu(linear(u, weight, bias)) + (u if name == "dense_2" else 0)
        weight, bias = (state[f"demultiplexer.pre_decoder.{part}"] for part in ("weight", "bias"))
        norm = [state[f"demultiplexer.pre_decoder_layer_norm.{part}"] for part in ("weight", "bias")]
        u = u + torch.nn.functional.layer_norm(
            gelu(linear(u, weight, bias)), (width,), *norm, config.layer_norm_eps
        )
        logits.append(linear(u, state["classifier.weight"], state["classifier.bias"])[:, 0])
    return torch.stack(logits, dim=1).flatten(0, 1)


def test_the_published_logits(contextual, tmp_path):
    folder, state, layers = contextual
    convert_checkpoint(folder, tmp_path / "ours", task="MNLI")
    model = PrumuxForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(1, 900, (6, 7))
    mask = (
        torch.arange(7) < torch.tensor([[7], [4], [6], [7], [3], [3]])
    ).long()  # the last group has empty positions
    engine = compile_for_inference(model, compile=False, progress=False)
    with torch.no_grad():
        expected = published(folder, state, layers, ids, mask)
        torch.testing.assert_close(model(ids, mask).logits, expected, rtol=1e-4, atol=5e-5)
        torch.testing.assert_close(engine(ids, mask), expected, rtol=1e-4, atol=5e-5)


def test_training_starts_from_the_authors_folder(contextual, tmp_path):
    """It is converted below the run's folder, once, and the finetuned model is of our own format."""
    folder, _, _ = contextual
    flags = (
        f"--task_name toy-nli --max_train_samples 8 --max_eval_samples 4 --max_steps 1 --do_train --num_instances 2 "
        f"--max_seq_length 16 --eval_strategy no --save_strategy no --disable_tqdm True --model_path {folder} "
        f"--output_dir {tmp_path / 'run'}"
    ).split()
    assert run(flags)["steps"] == 1
    saved = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert (saved["model_type"], saved["muxing_variant"]) == ("prumux", "gaussian_attention_v2")
    converted = tmp_path / "run" / "converted"
    assert len(list(converted.iterdir())) == 1
    run([*flags, "--overwrite_output_dir"])
    assert len(list(converted.iterdir())) == 1
    weights = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    os.utime(weights, (0, 0))  # other weights in the same place
    run([*flags, "--overwrite_output_dir"])
    assert len(list(converted.iterdir())) == 2
