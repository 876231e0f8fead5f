"""Options of the commands that run on a cluster."""

from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.help import option, option_group

if TYPE_CHECKING:
    from cafe_cli.cluster.job import ClusterOptions

_SCHEDULER = option(
    "--scheduler", metavar="ADDRESS",
    help="Run on the workers of a Dask scheduler: tcp://host:8786, or its scheduler file.",
)  # fmt: skip
_WORKERS = option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Run on N worker processes of this machine, which Dask starts.",
)  # fmt: skip
_SCRATCH = option(
    "--scratch", metavar="FOLDER",
    help="Where workers leave finished strips: a folder that all machines see, or "
    "s3://bucket/prefix. By default beside the output.",
)  # fmt: skip

cluster_options = option_group("Cluster", _SCHEDULER, _WORKERS)
cluster_options_with_scratch = option_group("Cluster", _SCHEDULER, _WORKERS, _SCRATCH)


def take_cluster(options: dict[str, Any]) -> "ClusterOptions | None":
    """Remove the values of the options; return the cluster, None if none is asked for.

    Raises
    ------
    click.UsageError
        Both a scheduler and workers of this machine are asked for, or an option needs one of them.
    """
    from cafe_cli.cluster.job import ClusterOptions

    scheduler, workers = options.pop("scheduler"), options.pop("workers")
    scratch = options.pop("scratch", None)
    if scheduler is not None and workers is not None:
        raise click.UsageError("--scheduler and --workers exclude each other")
    if scheduler is None and workers is None:
        if scratch is not None:
            raise click.UsageError("--scratch is for clusters: add --scheduler or --workers")
        return None
    return ClusterOptions(scheduler, workers, scratch)
