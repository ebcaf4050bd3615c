"""Training on a GPU: the kernels that are meant, pinned batches, and what a CPU reaches. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from triptych.encoders.embed import Embedder
from triptych.foundation.errors import TriptychError
from triptych.nn.attention import SelfAttention, key_bias
from triptych.nn.id_table import IdTable
from triptych.nn.rounding import round_by_chance
from triptych.nn.row_optimizer import RowOptimizer
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recipes.encoders import EncoderWork, Plan
from triptych.recipes.run_folder import RunFolder
from triptych.training.distributed import ALONE
from triptych.training.log import read_log

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def test_attention_with_padding_takes_the_fused_kernel():
    attention = SelfAttention(128, heads=4)
    states = torch.randn(6, 29, 128, generator=torch.Generator().manual_seed(0))
    bias = key_bias(torch.arange(29) < torch.tensor([29, 1, 4, 16, 3, 28])[:, None])
    expected = attention(states, bias=bias)
    expected.square().sum().backward()
    gradient = attention.query_key_value.weight.grad.clone()
    attention.zero_grad()
    attention.cuda()
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION), torch.autocast("cuda", dtype=torch.bfloat16):  # or it raises
        found = attention(states.cuda(), bias=bias.cuda())
    found.float().square().sum().backward()
    assert torch.allclose(found.float().cpu(), expected, atol=0.02)
    distance = (attention.query_key_value.weight.grad.cpu() - gradient).norm() / gradient.norm()
    assert distance < 0.02


def work(run: Path, out: Path, **loop: object) -> EncoderWork:
    folder = RunFolder.existing(run)
    settings = {"steps": 40, "warmup_steps": 5, "validate_every": 20, "log_every": 10, **loop}
    return EncoderWork(
        plan=Plan("title+photo", ContrastiveConfig.parse({"batch_items": 128, "loop": settings})),
        seed=0,
        catalogue=folder.stage("catalogue"),
        split=folder.stage("split"),
        tokenizer=folder.stage("tokenizer"),
        out=out,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_reaches_what_a_cpu_reaches(demo_run, tmp_path, precision):
    ends = [work(demo_run, tmp_path, device=device, precision=precision).train() for device in ("cpu", "cuda")]
    cpu, gpu = ([r for r in read_log(end.file("train.jsonl")) if r["event"] == "train"][-1] for end in ends)
    assert gpu["loss"] == pytest.approx(cpu["loss"], rel=0.02)
    assert gpu["peak_gpu_memory_bytes"] > 0
    recalls = [end.summary["metrics"]["recall@100/query-item"] for end in ends]
    assert recalls[1] == pytest.approx(recalls[0], abs=0.05)
    assert Embedder.open(ends[1], device="cpu").queries(["red teapot"]).shape == (1, 128)


def test_a_loss_that_is_no_number_is_told_on_a_gpu_too(demo_run, tmp_path):
    with pytest.raises(TriptychError, match="the (loss|gradient) became"):
        work(demo_run, tmp_path, device="cuda", learning_rate=1e30, warmup_steps=0).train()
    assert not list(tmp_path.glob("*/artifact.json"))


@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
def test_compiled_on_a_gpu(demo_run, tmp_path):
    ends = [work(demo_run, tmp_path, device="cuda", compile_model=compiled).train() for compiled in (False, True)]
    losses = [list(read_log(end.file("train.jsonl")))[-2]["loss"] for end in ends]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("optimizer", RowOptimizer)
def test_a_table_by_rows_trains_as_on_a_cpu(optimizer):
    ends = []
    for device in ("cpu", "cuda"):
        table = IdTable(50, 8, optimizer=optimizer, init_std=0.3, eps=0.01, generator=torch.Generator().manual_seed(0))
        table.to(device)
        for step in range(10):
            rows = torch.randint(50, (64,), generator=torch.Generator().manual_seed(step)).to(device)
            (table(rows) - 0.5).square().sum().backward()
            table.sum_row_gradients(ALONE)
            table.update_rows(learning_rate=0.1, seed=step)
        ends.append({"weight": table.weight.detach().cpu(), **{n: t.cpu() for n, t in table.row_state().items()}})
    for name, value in ends[0].items():
        assert torch.allclose(ends[1][name].float(), value.float(), atol=1e-5), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_by_chance_is_right_on_average_on_a_gpu(dtype):
    values = torch.full((100_000,), 1 + 2.0**-12, device="cuda")
    rounded = round_by_chance(values, dtype=dtype, generator=torch.Generator("cuda").manual_seed(0))
    assert len(rounded.unique()) == 2
    assert rounded.double().mean().item() == pytest.approx(1 + 2.0**-12, abs=1e-4)
