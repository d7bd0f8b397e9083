"""An encoder that learns to be understood by a frozen language model: the codes, the reading, the stage's command."""

import json

import numpy as np
import pytest
import torch
from model_folders import MIMI, edit_weights, make_folder
from safetensors.torch import load_file
from test_coded import ToneEngine

from duplex.checkpoint import load_model
from duplex.codec import build_mimi
from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM
from duplex.testing import tiny_lm_config
from train import codec
from train.corpus.bank import Bank, Request, fill
from train.reading import Reader, nearest_and_soft
from train.same_codes import tuned_for
from train.word_crops import WordCrops

RECIPE = """
[codec]
dimension = 16
n_filters = 2
codebook_dim = 8
n_codebooks = 4
cardinality = 64
num_heads = 2
num_layers = 1
dim_feedforward = 16
context = 20

[train]
stage = "hearing"
steps = 5
batch = 2
frames = 12
lr = 1e-2
warmup = 1
heard_from = 3
system_share = 0.3
keep_every = 1

[machine]
accelerator = "cpu"
"""


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    mimi = build_mimi(MIMI)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            torch.nn.init.normal_(module.embedding_sum)
            module.register_buffer("_embedding", None)
    return mimi.quantizer.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose codec has entries to choose from."""
    made = make_folder(tmp_path_factory.mktemp("model") / "folder")
    torch.manual_seed(1)

    def spread(tensors):
        for name, value in tensors.items():
            if name.endswith("embedding_sum"):
                value.normal_()
            elif name.endswith("cluster_usage"):
                value.fill_(1.0)

    edit_weights(next(p for p in made.iterdir() if "mimi" in p.name and p.suffix == ".safetensors"), spread)
    return made


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("bank")
    lines = ["hello there", "how are you today", "what is the time now", "a good plan"]
    wanted = [Request(line, "heart", "user", 1.0, 0.8) for line in lines] + [Request(line, "heart", "system") for line in lines]
    list(fill(path, ToneEngine(), wanted))
    return path


def test_codes_are_the_quantizers_and_the_terms_are_zero(quantizer):
    latent = torch.randn(2, 16, 5)
    tables = [torch.randn(64, 7) for _ in range(4)]
    first = nearest_and_soft(latent, quantizer.rvq_first, tables)
    rest = nearest_and_soft(latent, quantizer.rvq_rest, tables[1:])
    assert torch.equal(torch.cat([first[0], rest[0]], 1), quantizer.encode(latent))
    assert len(first[1]) == 1 and len(rest[1]) == 3
    assert all(term.shape == (2, 5, 7) and term.abs().max() == 0 for term in first[1] + rest[1])


def test_the_gradient_is_that_of_a_plain_softmax_over_the_entries(quantizer):
    """Frame by frame and codebook by codebook, with the residual's own gradient left in."""
    latent = torch.randn(1, 16, 3, requires_grad=True)
    tables, wanted = [torch.randn(64, 7) for _ in range(3)], torch.randn(1, 3, 7)
    codes, terms, _ = nearest_and_soft(latent, quantizer.rvq_rest, tables)
    sum((term * wanted).sum() for term in terms).backward()
    found, latent.grad = latent.grad.clone(), None

    books = [layer._codebook.embedding for layer in quantizer.rvq_rest.vq.layers]
    weight = quantizer.rvq_rest.input_proj.weight[:, :, 0]
    residuals = [weight @ latent[0, :, t] for t in range(3)]
    total = 0.0
    for k, book in enumerate(books):
        distances = [(residual - book).square().sum(-1) for residual in residuals]
        width = sum(d.min().item() for d in distances) / 3
        for t, distance in enumerate(distances):
            total = total + (torch.softmax(-distance / width, 0) @ tables[k] * wanted[0, t]).sum()
            residuals[t] = residuals[t] - book[codes[0, k, t]]
    total.backward()
    assert torch.allclose(found, latent.grad, rtol=1e-3, atol=1e-5) and found.abs().max() > 1e-4


def test_the_model_reads_exactly_what_it_reads_in_use():
    torch.manual_seed(0)
    model = DuplexLM(tiny_lm_config()).eval()
    silence = torch.randint(0, 64, (4, 5))
    reader = Reader(model, silence, 64)
    codes, heard = torch.randint(0, 64, (2, 4, 9)), torch.randint(0, 20, (2, 9))
    zeros = [torch.zeros(2, 9, 32) for _ in range(4)]
    found = reader.loss(codes, zeros, heard)

    rows = torch.full((2, 9, 9), model.config.existing_text_padding_id)
    rows[:, model.layout.system_rows] = silence[:, torch.arange(9) % 5]
    rows[:, model.layout.user_rows] = codes
    model(rows, depth_index=torch.zeros(0, dtype=torch.long))
    assert torch.allclose(found, reader.listener.loss(heard))


def test_a_term_reaches_the_steps_after_its_frame_and_none_before():
    torch.manual_seed(0)
    model = DuplexLM(tiny_lm_config()).eval()
    reader = Reader(model, torch.randint(0, 64, (4, 5)), 64)
    codes = torch.randint(0, 64, (1, 4, 9))
    for row, first in ((0, 1), (1, 2)):  # the semantic codebook has no delay, the others have one frame
        for frame in range(9):
            terms = [torch.zeros(1, 9, 32, requires_grad=True) for _ in range(4)]
            heard = torch.full((1, 9), -1)
            heard[0, frame] = 7
            reader.loss(codes, terms, heard).backward()
            reached = terms[row].grad[0].abs().sum(-1) > 0
            assert reached.tolist() == [t + first <= frame for t in range(9)]


def test_a_codec_of_other_sizes_is_refused():
    model = DuplexLM(tiny_lm_config())
    with pytest.raises(ConfigError, match="4 codebooks of 64 entries, the codec has 3 of 64"):
        Reader(model, torch.zeros(3, 5, dtype=torch.long), 64)


def test_crops_begin_with_a_clip_and_say_its_words_late(bank, folder):
    tokenizer = load_model(folder).tokenizer
    crops = WordCrops(Bank(bank), tokenizer, system_share=0.5)
    batch = crops.batch([np.random.default_rng((0, n)) for n in range(16)], 30)
    system = (batch.heard < 0).all(1)
    assert 0 < system.sum() < 16 and batch.own[system].all()
    for row in (~system).nonzero().flatten().tolist():
        loud = (batch.pcm[row, 0].abs().reshape(30, -1).max(-1).values > 0.02).nonzero().flatten()
        named = [n for n, piece in enumerate(batch.heard[row].tolist()) if tokenizer.piece_bytes(piece)]
        said = tokenizer.decode(batch.heard[row, named].tolist())
        assert 4 <= named[0] - int(loud[0]) <= 8 and said.replace(" ", "")  # 0.48 s, six frames, after its beginning
        assert not batch.own[row, loud[0] : loud[-1] + 1].any() and batch.own[row, -1]


@pytest.fixture
def command(tmp_path, bank, folder):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    return lambda out, *more: codec.main([str(recipe), "--bank", str(bank), "--out", str(tmp_path / out), *more])


def test_the_encoder_alone_moves_and_only_when_the_head_is_ready(command, tmp_path, folder):
    before = load_model(folder).codec.mimi.state_dict()
    assert command("run", "--model", str(folder), "--until", "3") == 0
    waiting = load_file(tmp_path / "run" / "mimi.safetensors")
    assert all(torch.equal(waiting[name], before[name]) for name in waiting)
    assert command("run", "--model", str(folder)) == 0
    after = load_file(tmp_path / "run" / "mimi.safetensors")
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"encoder", "encoder_transformer", "downsample"}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert len(losses) == 5
    known = next(folder.glob("*mimi*.safetensors"))
    assert tuned_for(tmp_path / "run", known)  # so that train.fit lets the model go on learning with the new codes
    assert not tuned_for(tmp_path / "run", tmp_path / "run" / "mimi.safetensors") and not tuned_for(folder, known)
    assert command("whole", "--model", str(folder)) == 0  # without the stop: the same bytes
    whole = load_file(tmp_path / "whole" / "mimi.safetensors")
    assert all(torch.equal(whole[name], after[name]) for name in whole)


@pytest.mark.parametrize(("options", "change", "says"), [
    ((), None, "--model is missing"),
    (("MODEL",), ('stage = "hearing"', 'stage = "whole"'), 'the stage is "whole"'),
    (("MODEL",), ("cardinality = 64", "cardinality = 32"), "the model's codec 4 of 64"),
    (("MODEL", "--set", "adversarial.on=true"), None, "adversarial.on needs sound"),
])
def test_what_does_not_fit_is_said_before_anything_is_written(command, tmp_path, folder, capsys, options, change, says):
    if change:
        (tmp_path / "recipe.toml").write_text(RECIPE.replace(*change))
    given = [piece for option in options for piece in (("--model", str(folder)) if option == "MODEL" else (option,))]
    assert command("run", *given) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0] and not (tmp_path / "run").exists()
