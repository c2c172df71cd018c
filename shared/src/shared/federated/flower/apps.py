"""What ``flwr run`` starts in a deployment: the two apps of a package."""

import shlex
from collections.abc import Callable
from importlib import import_module

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from shared.errors import RunError, UsageError
from shared.federated.flower.client import client_app

__all__ = ["client_app", "server_app"]


def server_app(run: str) -> ServerApp:
    """The ServerApp of a package: ``fit`` with the options that stand as ``words`` in the run config.

    Args:
        run: ``module:function`` that runs words of the package's command, given a ``grid``.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        module, function = run.split(":")
        command: Callable[..., None] = getattr(import_module(module), function)
        words = shlex.split(str(context.run_config.get("words", "")))
        try:
            command(["fit", *words], grid=grid)
        except (UsageError, RunError) as error:
            # Flower shows what an app raises; the sentence stands alone there.
            raise RuntimeError(f"{module.partition('.')[0]}: {' '.join(str(error).split())}") from None

    return app
