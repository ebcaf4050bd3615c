"""``triptych doctor``."""

from __future__ import annotations

from triptych.cli.launch import find_tcmalloc
from triptych.cli.output import AsJson, print_json, print_table

EXTRAS = {"serve": "fastapi", "hf": "transformers"}


def doctor(*, as_json: AsJson = False) -> None:
    """Show versions, devices, extras and memory: what to paste into a bug report."""
    import importlib.util
    import os
    import platform
    import shutil
    from importlib import metadata

    import torch

    from triptych.foundation.machine import num_cores

    libraries = ("torch", "numpy", "polars", "pyarrow", "tokenizers", "bm25s", "pillow", "pydantic")
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    tcmalloc = find_tcmalloc()
    facts = {
        "triptych": metadata.version("triptych"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in libraries},
        "cpu cores": num_cores(),
        "cpu bf16": bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "tcmalloc": str(tcmalloc) if tcmalloc else None,
        **{f"extra {extra}": importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()},
        "TRIPTYCH_DATA": os.environ.get("TRIPTYCH_DATA"),
    }
    if as_json:
        print_json(facts)
        return
    print_table([{"what": name, "found": _say(value)} for name, value in facts.items()])
    if tcmalloc is None:
        print("Training can be faster with tcmalloc (Debian and Ubuntu: apt install libtcmalloc-minimal4).")


def _say(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
