import numpy as np

from segdcn.offsets import Region, regions


def test_pieces_of_a_class_are_objects_and_their_centres_lie_inside():
    labels = np.zeros((40, 60), np.uint8)
    labels[5:16, 5:16] = 2  # 11x11 around (10, 10)
    labels[20:25, 30:35] = 2
    labels[30:39, 10:19] = 1  # a ring
    labels[33:36, 13:16] = 0
    labels[0, 59] = 2  # a crumb
    found = regions(labels)
    assert [(r.label, r.area, r.background) for r in found] == [
        (0, 40 * 60 - 121 - 25 - 81 - 1, True),  # without the hole of the ring, which is a crumb too
        (1, 72, False),
        (2, 121, False),
        (2, 25, False),
    ]
    assert found[2:] == [Region(2, 121, 10, 10, False), Region(2, 25, 22, 32, False)]
    assert labels[int(found[1].y), int(found[1].x)] == 1


def test_with_an_instance_map_touching_objects_are_two_and_all_else_is_background():
    labels = np.full((30, 30), 3, np.uint8)
    labels[:, 20:] = 4
    labels[10:20, :10], labels[0, 0] = 1, 255
    instances = np.zeros((30, 30), np.uint16)
    instances[10:15, :10], instances[15:20, :10] = 26001, 26002
    instances[0, 0] = 255  # VOC marks void so
    found = regions(labels, instances, background=None)
    assert [(r.label, r.area, r.background) for r in found] == [
        (1, 50, False),
        (1, 50, False),
        (3, 300 + 200 - 1, True),
        (4, 300, True),
    ]
    assert (found[0].y, found[1].y) == (12, 17)


def test_without_a_background_class_every_piece_is_an_object():
    labels = np.zeros((20, 20), np.uint8)
    assert [r.background for r in regions(labels, background=None)] == [False]
    assert regions(np.full((20, 20), 255, np.uint8)) == []
