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
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    log_format: Annotated[
        str, typer.Option(help="text: a line of words per request; json: a JSON object per line.", metavar="text|json")
    ] = "text",
    log_queries: Annotated[
        bool, typer.Option("--log-queries", help="Write the words of each search into the log; they can be personal.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a limit: max_photo_bytes, max_photo_pixels or max_items_bytes =value. May be repeated.",
        ),
    ] = None,
) -> None:
    """Serve the search page and the JSON API of a finished run, until Ctrl-C; the log goes to stderr."""
    with_fast_allocator()
    from triptych.serve import ServeConfig
    from triptych.serve import run as run_service

    config = ServeConfig().override(f"log_format={log_format}", f"log_queries={log_queries}".lower(), *(settings or ()))

    def tell(url: str) -> None:
        print(f"search page: {url}/    API: {url}/docs    stop: Ctrl-C", flush=True)

    run_service(run, host=host, port=port, allowed_hosts=allowed_host or (), config=config, when_listening=tell)
