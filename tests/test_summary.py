import io

import torch
from rich.console import Console

from segdcn.metrics import ConfusionMatrix
from segdcn.summary import iou_table, print_summary


def test_the_table_shows_every_class_and_says_which_are_left_out():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]))
    console = Console(width=80, file=io.StringIO())
    console.print(iou_table("IoU", ["sky", "road", "cat"], confusion))
    lines = console.file.getvalue().splitlines()

    def row(name):
        return next(line.replace("│", " ").split() for line in lines if name in line)

    assert row("sky") == ["sky", "0.6667", "75.00%"]
    assert row("road") == ["road", "0.5000", "25.00%"]
    assert row("cat") == ["cat", "-", "0.00%"]
    assert row("mean of 2") == ["mean", "of", "2", "0.5833", "75.00%", "right"]
    assert "1 of 3 left out of the mean" in " ".join(lines)


def test_facts_are_one_line_each_however_long(capsys):
    print_summary(None, {"run folder": "/a" * 100, "best": "[x] best.ckpt"})
    assert capsys.readouterr().out == f"run folder  {'/a' * 100}\nbest        [x] best.ckpt\n"
