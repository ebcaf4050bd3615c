"""``torch.compile``, block by block.

A model's blocks are one piece of code, so compiling each alone compiles it once, and what surrounds them (which inputs
a batch has, in how many parts) may vary without compiling anything again. Sizes are left open from the start, since
texts are cut by length. The whole of a task's losses as one graph took more than four minutes to compile on a core,
again for each combination of inputs (`docs/decisions/0009`).
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager

import torch
from torch import nn

from triptych.foundation.errors import ConfigError

COMPILERS = ("c++", "g++", "clang++")


def compile_blocks(module: nn.Module, *, device: torch.device) -> None:
    """Compile the members of every `nn.ModuleList` in place; names of weights stay as they are.

    Raises:
        ConfigError: the model has no such list, or a CPU is to be used and the system has no C++ compiler.
    """
    wanted = os.environ.get("CXX")
    if device.type == "cpu" and not any(shutil.which(name) for name in ((wanted,) if wanted else COMPILERS)):
        looked_for = wanted or ", ".join(COMPILERS)
        raise ConfigError(
            f"compile_model: torch.compile needs a C++ compiler, and there is none ({looked_for}). Install one (Debian "
            "and Ubuntu: apt install g++), or set compile_model = false."
        )
    blocks = [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]
    if not blocks:
        raise ConfigError(
            "compile_model: this model is not made of blocks, so there is nothing to compile. Leave it out."
        )
    for block in blocks:
        block.compile(dynamic=True)


def uncompiled() -> AbstractContextManager[None]:
    """Run compiled blocks as they were written, for passes that come too seldom to be worth compiling for."""
    return torch.compiler.set_stance("force_eager")
