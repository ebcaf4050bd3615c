"""``triptych serve``."""

from __future__ import annotations

import os
import signal
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
    journal: Annotated[
        Path | None,
        typer.Option(help="Folder in which items added, replaced and removed at run time are kept.", metavar="DIR"),
    ] = None,
    carry_over: Annotated[
        bool,
        typer.Option("--carry-over", help="Take the journal over from an earlier catalogue of this shop."),
    ] = False,
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
    """Serve the search page and the JSON API of a finished run, until Ctrl-C; the log goes to stderr.

    After another `triptych run`, kill -HUP has it serve the new one, without a failed request.
    """
    with_fast_allocator()
    from triptych.serve import ServeConfig
    from triptych.serve import run as run_service

    config = ServeConfig().override(f"log_format={log_format}", f"log_queries={log_queries}".lower(), *(settings or ()))

    def tell(url: str) -> None:
        again = f"    after a new run: kill -HUP {os.getpid()}" if hasattr(signal, "SIGHUP") else ""
        print(f"search page: {url}/    API: {url}/docs    stop: Ctrl-C{again}", flush=True)

    run_service(
        run,
        host=host,
        port=port,
        allowed_hosts=allowed_host or (),
        config=config,
        journal=journal,
        carry_over=carry_over,
        when_listening=tell,
    )
