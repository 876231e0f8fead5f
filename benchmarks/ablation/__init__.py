"""The study: which parts of CaFE and of its training help, on ground that was not trained on.

    python -m benchmarks.ablation DATA OUT [--table guidance] [--folds 3] [--seeds 3] [--steps 350]

DATA holds the rasters of ``--config`` (as it comes, configs/autzen.toml: ortho.tif, dsm.tif,
labels.tif; labels_sparse.tif if there is one is scored as well, never trained on). The scene is cut
into strips from west to east, and each in turn is what is scored, the others train.

All variants see the same tiles in the same order with the same augmentation, take the same number
of steps with the same optimiser and schedule, and are scored with their last weights: nothing is
chosen on the ground that scores. A run is a process of its own. Whatever is finished is a line of
OUT/runs.jsonl; ``--resume`` does what is missing, and ``python -m benchmarks.ablation.report OUT``
makes tables and figures of what there is.

==========  ==========================================================
variants    the tables as data: names, settings, what is compared
recipe      what is not in the package: losses, masks, averaged weights
baselines   networks to compare with
package     what is taken from parts of the package that may move
folds       strips of the scene, cut into tile sets
run         one run: train, score, one line
scoring     passes over the ground that is scored: plain, guided, without heights ...
schedule    runs as processes, side by side
records     runs.jsonl, and which run is which
report      tables and figures
==========  ==========================================================
"""
