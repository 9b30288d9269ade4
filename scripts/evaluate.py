"""Evaluates a model on COCO-format data. It is an example of how to use the package from Python.

    python scripts/evaluate.py MODEL ANNOTATIONS IMAGES

MODEL is a preset's name, a checkpoint or an exported file. `yolact evaluate --help` has more options.
"""

import argparse

from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import segment_all
from yolact.evaluation.scores import score
from yolact.segmenters import open_segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("annotations")
    parser.add_argument("images")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    evaluation_set = EvaluationSet.read(arguments.annotations, arguments.images)
    results = segment_all(open_segmenter(arguments.model, arguments.device), evaluation_set)
    scores = score(evaluation_set, results)
    print("boxes", scores.box.table(), "masks", scores.mask.table(), scores.markdown(), sep="\n")


if __name__ == "__main__":
    main()
