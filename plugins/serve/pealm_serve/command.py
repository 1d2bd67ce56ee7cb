"""`pealm serve`."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option(
    "--ckpt", "paths", metavar="PATH", required=True, multiple=True,
    help="Run (its best weights), checkpoint folder or file in one; repeatable.",
)  # fmt: skip
@click.option(
    "--base",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Base weights of an adapter, if they have moved.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any but loopback needs a key."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0: any free one.")
@click.option(
    "--api-key", metavar="KEY", envvar="PEALM_API_KEY", help="Key that clients must send. Also PEALM_API_KEY."
)
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda", "mps")), default="auto", help="Device to use.")
@click.option(
    "--dtype", type=click.Choice(("auto", "fp32", "bf16")), default="auto", help="Precision of the weights."
)
@click.option("--quantize", type=click.Choice(("int8", "int4")), help="Quantize the weights while loading.")
def serve(paths: tuple[str, ...], host: str, port: int, api_key: str | None, browse: bool, **how: Any) -> None:
    """Serve models through OpenAI's protocol under /v1, and a web page.

    \b
    pealm serve --ckpt runs/talk --open
    PEALM_API_KEY=... pealm serve --ckpt runs/talk --ckpt runs/base --host 0.0.0.0
    """
    from pealm_serve.server import run

    run(paths, host=host, port=port, api_key=api_key, browse=browse, **how)
