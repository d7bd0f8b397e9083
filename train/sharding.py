"""FSDP2: weights, gradients and optimiser state in shares, one a process, gathered layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from duplex.model.lm import DuplexLM
from duplex.model.lora import adapted_layers, add_lora
from train.recipe import MachineSettings


def shard(model: DuplexLM, build: Callable[[], DuplexLM], mesh: DeviceMesh, device: torch.device,
          machine: MachineSettings) -> DuplexLM:
    """``model`` (on the meta device) sharded over the data dimension of ``mesh``, with the weights of ``build()``.

    Only rank 0 calls ``build``, in main memory; the other processes never hold more than their share and one layer.
    """
    whole = build() if dist.get_rank() == 0 else None
    adapters = [(next((layer.rank for _, layer in adapted_layers(whole)), 0),
                 next((layer.scaling for _, layer in adapted_layers(whole)), 1.0),
                 [n for n, p in whole.named_parameters() if p.requires_grad])] if whole is not None else [None]
    dist.broadcast_object_list(adapters, src=0)
    rank, scaling, trained = adapters[0]
    if rank:
        with torch.device("meta"):
            add_lora(model, rank, scaling)
    for name, p in model.named_parameters():
        p.requires_grad_(name in set(trained))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if machine.precision == "bf16-mixed" else MixedPrecisionPolicy()
    data = mesh["data_parallel"]
    for layer in (*model.transformer.layers, *(model.depformer.layers if model.config.dep_q else ())):
        if machine.compile:
            layer.compile()
        fully_shard(layer, mesh=data, mp_policy=policy)
    fully_shard(model, mesh=data, mp_policy=policy)
    if device.type == "cpu":  # gloo cannot average: sums are divided afterwards
        for part in (m for m in model.modules() if isinstance(m, FSDPModule)):
            part.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=device)
    state = whole.state_dict() if whole is not None else {}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    if machine.precision == "bf16-true":
        model.to(torch.bfloat16)
    return model


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights in every process while the block runs, for calls that go past `forward` (streaming)."""
    parts = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
