"""``fedseca partition``: the division of the training images among clients, to look at, to keep and to use again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from fedseca.data import FederatedImages

HELP = """\
usage: fedseca partition [--out DIR] [options of fit]

Show how `fedseca fit` with the same options divides the training images among clients: a table of clients and classes,
their sizes, and how unlike each other they are. With --out the division is kept:

  DIR/split.csv    one row per training image: index, file (where there is one), label, class, client; of
                   MergedDirichlet also the virtual client, in the column that MergedShards reads
  DIR/split.png    the table as a picture
  DIR/split.json   the numbers, the seed and the options behind them

A kept division is used again, by any later version and on any machine, with
  fedseca fit --data.partition FromTable --data.partition.file DIR/split.csv
which refuses a file that does not belong to the images.

options:
  --out DIR        Folder to write; without it the division is only shown.
  --config NAME    A file, or a shipped config by name; `fedseca configs` lists them.
  --data.clients K --data.seed N --data.partition CLASS --data.partition.OPTION VALUE
                   The division. CLASS is one of IID, Dirichlet, Shards, ByColumn, Strided, ClassChunks, ClassGroups,
                   WholeClasses, RandomOwner, MergedShards, MergedDirichlet, FromTable;
                   `fedseca fit --data.partition.help CLASS` tells its options.
  ...              Every option of fit; `fedseca fit --help` lists them.

examples:
  fedseca partition
  fedseca partition --data.partition.alpha 0.1 --data.clients 20
  fedseca partition --data.partition Shards --out runs/shards
  fedseca partition --config cifar10_resnet18 --data.source.root FOLDER --out cifar10_5_clients"""


def run(words: list[str]) -> None:
    """``fedseca partition [--out DIR] [options of fit]``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    from fedseca.data import FederatedImages
    from fedseca.options import FitOptions
    from shared.outputs import output_folder

    options = FitOptions(words, {"out": str})
    data = FederatedImages(**options.part("data"))
    data.setup()
    out = None if options.chosen.out is None else output_folder(options.chosen.out)
    print(shown(data))
    if out is not None:
        for path in keep(data, out):
            print(path)


def class_counts(data: "FederatedImages") -> "np.ndarray":
    """``(K, C)`` training images of each client and class."""
    import numpy as np

    return np.stack([data.train_images.subset(share).class_counts() for share in data.shares])


def shown(data: "FederatedImages") -> str:
    """The table of clients and classes, and the numbers below it."""
    from shared.text_table import text_table

    counts = class_counts(data)
    rows = [
        [client, f"{row.sum():,}", *(f"{n:,}" if n else "·" for n in row)]
        for client, row in zip(data.client_names, counts, strict=True)
    ]
    rows.append(["all", f"{counts.sum():,}", *(f"{n:,}" for n in counts.sum(axis=0))])
    numbers = summary(data)
    sizes, distance = numbers["sizes"], numbers["total_variation"]
    return (
        f"{data.data_name} ({data.provenance}): {counts.sum():,} training images\n"
        f"{data.partition}, seed {data.seed}\n\n"
        f"{text_table(['client', 'images', *data.class_names], rows)}\n\n"
        f"images of a client: {min(sizes):,} (client {sizes.index(min(sizes))}) to {max(sizes):,} "
        f"(client {sizes.index(max(sizes))}), mean {sum(sizes) / len(sizes):,.1f}\n"
        f"classes of a client: {min(numbers['classes'])} to {max(numbers['classes'])} of {len(data.class_names)}\n"
        f"distance of a client's class shares to those of all: mean {numbers['mean_total_variation']:.3f}, "
        f"greatest {max(distance):.3f} (client {distance.index(max(distance))}); 0 is alike"
    )


def summary(data: "FederatedImages") -> dict[str, Any]:
    """The numbers of a division, ready for JSON."""
    from shared.data.heterogeneity import total_variation

    counts = class_counts(data)
    distance = total_variation(counts)
    return {
        "sizes": counts.sum(axis=1).tolist(),
        "classes": (counts > 0).sum(axis=1).tolist(),
        "total_variation": [round(float(value), 6) for value in distance],
        "mean_total_variation": round(float(distance.mean()), 6),
    }


def keep(data: "FederatedImages", out: Path) -> list[Path]:
    """Write ``split.csv``, ``split.png`` and ``split.json`` into ``out``.

    Raises:
        UsageError: The folder holds another division already.
    """
    from shared.data.class_partition import MergedDirichlet
    from shared.data.datamodule import partition_stream
    from shared.data.split_table import split_table
    from shared.plots import bars, save
    from shared.runs import write_json

    columns = {}
    if isinstance(data.partition, MergedDirichlet):
        owners = data.partition.owners(data.train_images.labels, data.num_clients, partition_stream(data.seed))
        columns["y_alpha_id"] = owners
    text = split_table(data.train_images, data.shares, columns)
    file = out / "split.csv"
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise UsageError(f"--out must be a folder without another split.csv, since runs may rely on it, got {out}")
    out.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
    clients = [f"client {client}" for client in data.client_names]
    picture = bars(
        class_counts(data),
        clients,
        data.class_names,
        x_label="training images",
        title=f"{data.data_name}, {data.partition}, seed {data.seed}",
    )
    record = out / "split.json"
    write_json(record, {"data": data.describe(), **summary(data)})
    return [file, save(picture, out / "split.png"), record]
