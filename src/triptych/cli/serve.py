"""``triptych serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.launch import with_fast_allocator


def serve(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A further host name the service is reached by (proxy, domain). May be repeated."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the search page and the JSON API of a finished run."""
    with_fast_allocator()
    from triptych.foundation.errors import MissingExtra
    from triptych.recipes.run_folder import RunFolder
    from triptych.serve import create_app

    try:
        import uvicorn
    except ModuleNotFoundError:
        raise MissingExtra("The HTTP service", extra="serve") from None

    RunFolder.existing(run).stage("bundle")  # a wrong folder is told here, not by a service that never gets ready
    app = create_app(run, allowed_hosts=[host, *(allowed_host or [])])
    print(f"search page: http://{host}:{port}/    API: http://{host}:{port}/docs    stop: Ctrl-C", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")
