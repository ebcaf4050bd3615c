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
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the search page and the JSON API of a finished run."""
    with_fast_allocator()
    try:
        import uvicorn

        from triptych.serve import create_app
    except ModuleNotFoundError as error:
        from triptych.foundation.errors import MissingExtra

        if error.name in {"uvicorn", "fastapi", "starlette", "python_multipart", "multipart"}:
            raise MissingExtra("The HTTP service", extra="serve") from None
        raise

    app = create_app(run)
    print(f"search page: http://{host}:{port}/    API: http://{host}:{port}/docs    stop: Ctrl-C", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")
