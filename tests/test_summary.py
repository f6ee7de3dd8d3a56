import io

import torch
from rich.console import Console

from segdcn.metrics import Evaluation
from segdcn.summary import iou_table, print_summary, size_table


def printed(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue().splitlines()


def cells(lines, name):
    return next(line.replace("│", " ").split() for line in lines if name in line)


def test_in_detail_there_are_boundaries_sizes_and_calibration():
    """A square of 40x40 pixels found as 38x38, with a confidence of 1/2: half of its band of 3 is right."""
    labels = torch.zeros(1, 120, 120, dtype=torch.long)
    labels[:, 20:60, 20:60] = 1
    guess = torch.zeros_like(labels)
    guess[:, 21:59, 21:59] = 1
    evaluation = Evaluation(2)
    evaluation.update(guess, labels, logits=torch.zeros(1, 2, 120, 120))
    row = cells(printed(iou_table("IoU", ["ground", "square"], evaluation)), "square")
    assert row == ["square", "0.9025", "0.5000", "11.11%"]
    lines = printed(size_table(evaluation))
    assert cells(lines, "medium") == ["medium", "below", "9216", "1", "0.9025", "0.9025"]
    assert cells(lines, "small") == ["small", "below", "1024", "0", "-", "-"]
    # With equal logits the first class is taken: right in the 12800 of 14400 pixels that are ground.
    assert "expected calibration error 0.3889" in " ".join(lines)


def test_the_table_shows_every_class_and_says_which_are_left_out():
    evaluation = Evaluation(3, in_detail=False)
    evaluation.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 1]]]))
    lines = printed(iou_table("IoU", ["sky", "road", "cat"], evaluation))

    def row(name):
        return cells(lines, name)

    assert row("sky") == ["sky", "0.6667", "75.00%"]
    assert row("road") == ["road", "0.5000", "25.00%"]
    assert row("cat") == ["cat", "-", "0.00%"]
    assert row("mean of 2") == ["mean", "of", "2", "0.5833", "75.00%", "right"]
    assert "1 of 3 left out of the mean" in " ".join(lines)


def test_facts_are_one_line_each_however_long(capsys):
    print_summary(None, {"run folder": "/a" * 100, "best": "[x] best.ckpt"})
    assert capsys.readouterr().out == f"run folder  {'/a' * 100}\nbest        [x] best.ckpt\n"
