"""Finished blocks of a mosaic on disk, from which a run is resumed, and the index over them."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cafe_cli.config.provenance import read_beside
from cafe_cli.errors import OutputError
from cafe_cli.mosaic.block_folder import (
    block_file,
    describe_file,
    drafts_folder,
    staged_folder,
)
from cafe_cli.mosaic.block_index import write_index
from cafe_cli.mosaic.blocks import BlockResult
from cafe_cli.mosaic.job import MosaicOutputs, index_path
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.raster.product import Product
from cafe_cli.system.atomic_write import remove, translate_os_errors
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.journal import Journal
from cafe_cli.system.output_group import claim_outputs, replace_folders

log = logging.getLogger("cafe")

_JOURNAL = ".journal.jsonl"
_FORMAT = "cafe blocks 1"


class BlockStore:
    """The blocks of a mosaic, in a folder beside that of each product; see `open_blocks`.

    Attributes
    ----------
    done : dict
        The complete blocks, by name.
    """

    def __init__(self, planned: MosaicPlan, fingerprint: Mapping[str, object]) -> None:
        self._planned = planned
        self._outputs: MosaicOutputs = planned.outputs
        self._products = planned.products
        self.path = self._products[0].path
        self._staged = staged_folder(self.path)
        made_of = _made_of(planned, fingerprint)
        self._journal = Journal(self._staged / _JOURNAL, "blocks", _FORMAT, made_of)
        self.done: dict[str, BlockResult] = {}
        self._kept = 0  # blocks that a later run may use
        self._finished = False

    @property
    def folders(self) -> list[Path]:
        """The folders that blocks are written to."""
        return [drafts_folder(staged_folder(product.path)) for product in self._products]

    def products(self, name: str) -> tuple[Product, ...]:
        """Return the rasters of a block, under the names that they have until all are complete."""
        return tuple(
            replace(product, path=staged_folder(product.path) / block_file(product.path, name))
            for product in self._products
        )

    def add(self, result: BlockResult) -> None:
        """Record a block that is complete; one with skipped pixels is made again on a resume."""
        self.done[result.name] = result
        if not result.skipped:
            self._journal.add(result.as_json())
            self._kept += 1

    def finish(self, tags: Mapping[str, str], settings: str) -> None:
        """Write the index over the blocks, and give all folders their names.

        Parameters
        ----------
        tags : mapping
            Metadata of the index of every product.
        settings : str
            Text of the file of the settings.

        Raises
        ------
        OutputError
            A file cannot be written. The blocks are kept.
        """
        self._journal.close()
        written = [result for result in self.done.values() if result.files]
        for product in self._products:
            with translate_os_errors(product.path):
                self._remove_drafts(product)
                self._remove_others(product)
                folder, grid = staged_folder(product.path), self._planned.grid
                write_index(folder, product, grid, written, tags)
        with translate_os_errors(self._outputs.settings):
            (self._staged / self._outputs.settings.name).write_text(settings, "utf-8")
        folders = [(staged_folder(product.path), product.path) for product in self._products]
        replace_folders(folders, [self._staged / _JOURNAL])
        self._finished = True

    def find(self) -> None:
        """Find the complete blocks of an interrupted run, if they may be used.

        Raises
        ------
        OutputError
            There are some, and neither `resume` nor `overwrite`; or they are of another mosaic.
        """
        if self._outputs.overwrite and not self._outputs.resume:
            return
        entries, changes = self._journal.read()
        listed = [result for entry in entries if (result := _parse(entry))]
        whole = {result.name: result for result in listed if self._is_complete(result)}
        if whole and not self._outputs.resume:
            raise OutputError(
                f"an interrupted run left {_count(len(whole))} of {self.path}; pass --resume to "
                "continue it, or --overwrite to start again"
            )
        if whole and changes:
            raise OutputError(
                f"cannot resume {self.path}: {changes}; pass --overwrite without --resume to start "
                "again"
            )
        self.done, self._kept = whole, len(whole)

    def start(self) -> None:
        """Remove what is not of a complete block, and begin the journal."""
        for product in self._products:
            with translate_os_errors(product.path):
                staged_folder(product.path).mkdir(exist_ok=True)
                self._remove_others(product)
                self._remove_drafts(product)
                drafts_folder(staged_folder(product.path)).mkdir()
        self._journal.start(result.as_json() for result in self.done.values())

    def close(self) -> None:
        """Remove the blocks, unless a later run may use them."""
        self._journal.close()
        for product in self._products:
            self._remove_drafts(product)
        if not self._finished and self._kept:
            log.warning(
                "%s of %s kept; continue with --resume", _count(self._kept), self.path
            )  # fmt: skip
        elif not self._finished:
            for product in self._products:
                remove(staged_folder(product.path))

    def _is_complete(self, result: BlockResult) -> bool:
        """Whether all files of a block exist, as the journal lists them; say which is damaged."""
        for product in self._products if result.files else ():
            for name, listed in result.files.get(product.name, {"": None}).items():
                file = staged_folder(product.path) / name
                if not file.is_file():
                    return False
                if describe_file(file) != listed:
                    log.warning(
                        "%s of block %s of %s is damaged on the disk; the block is made again",
                        name, result.name, self.path,
                    )  # fmt: skip
                    return False
        return True

    def _remove_others(self, product: Product) -> None:
        """Remove the files of blocks that are not complete, and drafts that were left."""
        results = self.done.values()
        known = {name for result in results for name in result.files.get(product.name, ())}
        for file in staged_folder(product.path).iterdir():
            if file.name not in known | {_JOURNAL}:
                remove(file)

    def _remove_drafts(self, product: Product) -> None:
        """Remove what tasks write; some of a cluster may still run though their block is there."""
        shutil.rmtree(drafts_folder(staged_folder(product.path)), ignore_errors=True)


@contextmanager
def open_blocks(planned: MosaicPlan, fingerprint: Mapping[str, object]) -> Iterator[BlockStore]:
    """Lock the outputs of a mosaic in blocks, and open the blocks of an interrupted run.

    Blocks lie in a folder next to that of each product, ``.NAME.blocks``, until `BlockStore.finish`
    gives it its name. Otherwise it is kept for ``--resume``, or removed if no block is complete.

    Parameters
    ----------
    planned : MosaicPlan
    fingerprint : mapping
        Everything that the blocks depend on besides the plan, as plain values by readable names.

    Raises
    ------
    OutputError
        An output exists; another process is writing it; there are blocks and neither ``resume`` nor
        ``overwrite``, or they are of another mosaic.
    """
    store = BlockStore(planned, fingerprint)
    with ExitStack() as stack:
        paths = [product.path for product in planned.products]
        stack.enter_context(claim_outputs(paths, planned.outputs.overwrite))
        store.find()
        stack.callback(store.close)
        stack.enter_context(undo_when_ended(store.close))
        store.start()
        yield store


def _parse(entry: Any) -> BlockResult | None:
    try:
        return BlockResult.from_json(entry)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _count(blocks: int) -> str:
    return f"{blocks} block{'s' * (blocks > 1)}"


def digest(planned: MosaicPlan, fingerprint: Mapping[str, object]) -> str:
    """Return the SHA-256 of all that the blocks depend on; see `open_blocks`."""
    text = json.dumps(_made_of(planned, fingerprint), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_complete(planned: MosaicPlan, made_of: str) -> bool:
    """Whether the outputs are there, as a run with that `digest` has completed them."""
    if not all(path.is_dir() for path in planned.outputs.paths):
        return False
    settings = read_beside(index_path(planned.outputs.labels))
    return settings.get("made_of") == made_of and "skipped" not in settings


def _made_of(planned: MosaicPlan, fingerprint: Mapping[str, object]) -> dict[str, object]:
    grid, products = planned.grid, planned.products
    classes: Sequence[object] = planned.classes.as_json() if planned.classes else ()
    return {
        **fingerprint,
        "outputs": [product.name for product in products],
        "block_size": planned.outputs.block_size,
        "classes": classes,
        "size": [grid.width, grid.height],
        "crs": grid.crs and grid.crs.to_wkt(),
        "place": list(grid.transform)[:6],
    }
