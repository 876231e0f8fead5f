"""The test bed that cannot flatter: train on some sites, score on others.

    python -m benchmarks.unseen run DATA OUT [--train autzen] [--variant NAME ...] [--seed N ...]
    python -m benchmarks.unseen forest DATA OUT [--train autzen]
    python -m benchmarks.unseen report OUT
    python -m benchmarks.unseen calibration DATA OUT [--train autzen] ...

DATA has a folder for each site with ortho.tif, dsm.tif and labels.tif; a site of several plots has
a folder for each plot. ``--train`` is the name of a site, names joined by commas, ``all``, or
``all-but-SITE``. Every site that was not trained on is mapped and scored; ``calibration`` says of
runs that are done how far their probabilities hold there. The network is scored
with its last weights: nothing is chosen by ground that was looked at. A finished run is a line of
OUT/results.jsonl and is not done again, an interrupted training goes on where it was.

==========  ============================================================
sites       the sites, and which of them train
scoring     maps against labels: a confusion matrix and IoU for each site
features    what the random forest sees of a pixel
forest      the random forest: the score to beat
variants    ways to train, as data
runs        a run of a variant: tile set, training, maps, scores
records     results.jsonl
report      tables of what is finished
calibration how sure the maps of a finished run are, and how often right
==========  ============================================================
"""
