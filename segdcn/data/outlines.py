"""The forms of Shapes as polygons: lists of closed rings, each (n, 2) points (x, y), filled even-odd."""

import numpy as np

Outline = list[np.ndarray]

FORMS = ("disc", "triangle", "cross", "star", "ring", "crescent")


def outline(form: str) -> Outline:
    """Return a form with its centre of mass at 0 and an area of 1, in points close enough to bend.

    Equal areas make equal class shares: at one size each form covers as many pixels.
    """
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if form == "disc":
        rings = [circle]
    elif form == "triangle":
        rings = [_dense(circle[::32])]
    elif form == "cross":
        arm = 0.27  # half the width of an arm; the arms end at 1
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
        rings = [_dense(np.concatenate([quarter @ _rotation(-k * np.pi / 2) for k in range(4)]))]
    elif form == "star":
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.37)[:, None]
        tenth = np.arange(10) * np.pi / 5
        rings = [_dense(radius * np.stack([np.cos(tenth), np.sin(tenth)], axis=1))]
    elif form == "ring":
        rings = [circle, 0.58 * circle[::-1]]
    elif form == "crescent":
        rings = [_crescent(radius=0.80, shift=0.52)]
    else:
        raise AssertionError(f"no form {form}")
    area = sum(_area(ring) for ring in rings)  # holes run the other way round and count negative
    centre = sum(_moment(ring) for ring in rings) / area
    return [(ring - centre) / np.sqrt(area) for ring in rings]


def bend(rings: Outline, rng: np.random.Generator, deformation: float) -> Outline:
    """Deform an outline of area 1 at random: stretch it, bend it, make it wavy, turn it.

    1. Stretch by up to 1 + 0.35 * deformation along one axis and squeeze the other as much.
    2. Bend along another axis: a line of length 1 becomes an arc of up to 75 * deformation degrees.
    3. Add a wave of 0.025 * deformation.
    4. Turn by any angle.

    The area stays (exactly in 1 and 4, nearly in 2 and 3), so `deformation` does not change
    how much of a picture a class covers.
    """
    stretch = np.exp(deformation * rng.uniform(-0.3, 0.3))
    stretch_axis, bend_axis = rng.uniform(0, np.pi, 2)
    curvature = deformation * rng.uniform(-1.3, 1.3)
    phase = rng.uniform(0, 2 * np.pi, 2)
    stretched = _rotation(stretch_axis) @ np.diag([stretch, 1 / stretch]) @ _rotation(bend_axis - stretch_axis)
    turn = _rotation(rng.uniform(0, 2 * np.pi))

    bent = []
    for ring in rings:
        ring = ring @ stretched
        if abs(curvature) > 1e-3:
            x, y = ring.T
            radius = 1 / curvature - y
            ring = np.stack([radius * np.sin(curvature * x), 1 / curvature - radius * np.cos(curvature * x)], axis=1)
        ring = ring + 0.025 * deformation * np.sin(5 * ring[:, ::-1] + phase)
        bent.append(ring @ turn)
    return bent


def strip(start: np.ndarray, middle: np.ndarray, end: np.ndarray, widths: np.ndarray) -> Outline:
    """Return a quadratic Bezier curve that is widths[0] wide at its start and widths[1] at its end."""
    t = np.linspace(0, 1, 40)[:, None]
    line = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    slope = np.gradient(line, axis=0)
    normal = np.stack([-slope[:, 1], slope[:, 0]], axis=1) / np.linalg.norm(slope, axis=1, keepdims=True)
    half = 0.5 * (widths[0] * (1 - t) + widths[1] * t)
    return [np.concatenate([line + half * normal, (line - half * normal)[::-1]])]


def _crescent(radius: float, shift: float) -> np.ndarray:
    """A disc of radius 1 less a disc of `radius` whose centre lies `shift` to the right."""
    x = (1 - radius**2 + shift**2) / (2 * shift)  # where the two circles meet
    outer, inner = np.arccos(x), np.arccos((x - shift) / radius)
    back, front = np.linspace(outer, 2 * np.pi - outer, 80), np.linspace(2 * np.pi - inner, inner, 60)[1:-1]
    return np.concatenate(
        [
            np.stack([np.cos(back), np.sin(back)], axis=1),
            np.stack([shift + radius * np.cos(front), radius * np.sin(front)], axis=1),
        ]
    )


def _dense(corners: np.ndarray, per_edge: int = 12) -> np.ndarray:
    """Put points on the edges; only then can they bend."""
    along = np.linspace(0, 1, per_edge, endpoint=False)[:, None]
    edges = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    return np.concatenate([(1 - along) * start + along * end for start, end in edges])


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def _moment(ring: np.ndarray) -> np.ndarray:
    """The centre of mass times the area."""
    following = np.roll(ring, -1, axis=0)
    cross = ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]
    return ((ring + following) * cross[:, None]).sum(axis=0) / 6


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
