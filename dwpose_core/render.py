"""Draw People at any size: the pose maps ControlNets were trained on, and overlays on photographs.

Every primitive is an OpenCV call with whole-number geometry, so a map drawn at 1024 is not a resized map of 512. Sizes
and colours are those of ControlNet v1.1 (arXiv 2302.05543), which DWPose (arXiv 2307.15880) kept. Smooth edges are an
option: no ControlNet was trained with them, but in a video whole pixels make slow movements stutter.
"""

from __future__ import annotations

import colorsys
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np

from .openpose import is_visible, openpose_body, openpose_face
from .people import People
from .skeleton import FOOT_COLORS, FOOT_EDGES, HAND_EDGES, OPENPOSE_COLORS, OPENPOSE_LIMBS

PARTS = ("body", "hand", "face")

# Further away than this (pixels of the map), a point counts as invisible: OpenCV rasterises with 16 fractional bits.
_FAR = 2.0**20
_THICKEST = 32767  # OpenCV draws no thicker line; wider than any map
# Fractional bits of coordinates drawn with smooth edges: a sixteenth of a pixel is finer than 256 shades can show.
_FINE = 4
# OpenCV's smooth fill blends in a rim outside of the shape. With this much (in pixels / 2^4) off the radius, discs of
# radius 3 and more have the area they should have to within 5 %.
_RIM = 9
# The outline of a unit circle.
_CIRCLE = np.stack([np.cos(np.arange(60) * np.pi / 30), np.sin(np.arange(60) * np.pi / 30)], axis=1)

Color = tuple[int, int, int]
Point = tuple[int, int]


@dataclass(frozen=True)
class Style:
    """How a map is drawn; lengths in pixels of the map, whatever its size. `STYLES` names the field's three.

    Attributes:
        person_by_person: draw one whole person after another; else limb 1 of all people, limb 2 of all, ..., joints,
            left hands, right hands, faces (the original DWPose).
        face_eyes: the face has 70 points: iBUG-68 and the body's two eyes; else 68.
        strict_body: a body point needs score > threshold, all others >= threshold; else >= for the body, too.
        unit_coordinates: coordinates go through x / W * W' in float32, as the original's do; else x * (W' / W).
            The two truncate to different whole pixels once in a while.
        xinsir_sticks: widen limbs (nothing else) with the longer side of the map: twice from 500 pixels on, three
            times from 1000, four times from 2000, ... at most seven times (xinsir/controlnet-openpose-sdxl-1.0).
        stick: half the width of a limb.
        joint, hand_joint, face_point: radii. hand_line: line width.
        limb_brightness: limb colours are int(limb_brightness * c); joints keep the full colour.
    """

    person_by_person: bool = True
    face_eyes: bool = True
    strict_body: bool = False
    unit_coordinates: bool = False
    xinsir_sticks: bool = False
    stick: int = 4
    joint: int = 4
    hand_line: int = 2
    hand_joint: int = 4
    face_point: int = 3
    limb_brightness: float = 0.6


STYLES: dict[str, Style] = {
    # Fannovel16/comfyui_controlnet_aux, which most maps are made with today
    "openpose": Style(),
    # IDEA-Research/DWPose and huggingface/controlnet_aux. They dim the whole black canvas once the limbs are drawn,
    # which is the same as drawing the limbs in dimmed colours.
    "dwpose": Style(person_by_person=False, face_eyes=False, strict_body=True, unit_coordinates=True),
    # comfyui_controlnet_aux with its xinsir switch on
    "xinsir": Style(xinsir_sticks=True),
}


def render(
    people: People,
    size: Sequence[int] | None = None,
    style: str | Style = "openpose",
    *,
    parts: Iterable[str] = PARTS,
    feet: bool = False,
    threshold: float = 0.3,
    thickness: float = 1.0,
    color_by_person: bool = False,
    background: np.ndarray | Sequence[int] | None = None,
    antialias: bool = False,
) -> np.ndarray:
    """Pose map of all people of one image.

    Args:
        people: keypoints in pixels of an image of `people.image_size`.
        size: (H, W) of the map; None is `people.image_size`. Coordinates are scaled per axis, line widths are not.
        style: a key of `STYLES`, or a Style of your own.
        parts: any of "body", "hand", "face".
        feet: draw the feet with the body. No ControlNet these styles are made for has seen feet.
        threshold: score a point must have to be drawn, compared in float32. The neck is drawn between two shoulders
            that both exceed it. A point with a NaN or infinite coordinate, or one 2^20 pixels away, is never drawn.
        thickness: multiplies all widths and radii (rounded, at least one pixel).
        color_by_person: one colour per person, by track id where there is one, instead of one per limb.
        background: RGB colour, or an (H, W, 3) uint8 RGB image, which is copied; None is black.
        antialias: smooth edges, and places to a sixteenth of a pixel. Off, pixels are ControlNet's own.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: on an unknown style or part, a size, threshold, thickness or background that cannot be used, or
            a list of People.
    """
    if not isinstance(people, People):
        raise ValueError(f"a map is of the People of one image, got {type(people).__name__}: draw a list one by one")
    style = find_style(style)
    parts = {parts} if isinstance(parts, str) else set(parts)
    if unknown := parts - set(PARTS):
        raise ValueError(f"unknown part {min(map(str, unknown))!r}; choose from {', '.join(PARTS)}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite score, got {threshold}")
    canvas = _canvas(people.image_size if size is None else size, background)
    pen = _pen(style, thickness, max(canvas.shape[:2]))
    old, new = np.float32(people.image_size[::-1]), np.float32(canvas.shape[1::-1])
    shift = _FINE if antialias else 0

    def place(xy: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points on the canvas and which of them can be drawn; the others are moved to 0, 0."""
        with np.errstate(over="ignore"):
            xy = xy / old * new if style.unit_coordinates else xy * (new / old)
        visible = visible & (np.abs(xy) < _FAR).all(-1)
        return np.where(visible[..., None], xy, np.float32(0)), visible

    # A figure is a list of drawing steps, as many for one person as for the next; whose turn it is decides the style.
    palettes = [_palette(style.limb_brightness, hue) for hue in _hues(people, color_by_person)]
    figures: list[list[tuple]] = [[] for _ in palettes]

    def add(draw: Callable, shapes: list[list], pen: int | tuple[int, int], colors: str) -> None:
        for figure, items, palette in zip(figures, shapes, palettes, strict=True):
            figure.extend((draw, item, pen, color) for item, color in zip(items, getattr(palette, colors), strict=True))

    if "body" in parts:
        xy, _, visible = openpose_body(people, threshold, strict=style.strict_body)
        body = place(xy, visible)
        add(_draw_bone, _bones(*body, OPENPOSE_LIMBS, shift), pen.stick, "limbs")
        if feet:
            xy, score = people.part("foot")
            foot = place(xy, is_visible(xy, score, threshold))
            body_and_foot = (np.concatenate(pair, axis=1) for pair in zip(body, foot, strict=True))
            add(_draw_bone, _bones(*body_and_foot, FOOT_EDGES, shift), max(1, pen.stick // 2), "foot_bones")
            add(_draw_dot, _pixels(*foot, shift), max(1, pen.joint - 1), "foot_joints")
        add(_draw_dot, _pixels(*body, shift), pen.joint, "joints")
    if "hand" in parts:
        for side in ("left_hand", "right_hand"):
            xy, score = people.part(side)
            hands = _pixels(*place(xy, is_visible(xy, score, threshold)), shift, positive=True)
            add(_draw_hand, [[hand] for hand in hands], (pen.hand_line, pen.hand_joint), "hand")
    if "face" in parts:
        xy, _, visible = openpose_face(people, threshold, strict_body=style.strict_body)
        count = 70 if style.face_eyes else 68
        faces = _pixels(*place(xy[:, :count], visible[:, :count]), shift, positive=True)
        add(_draw_dot, [face + [None] * (70 - count) for face in faces], pen.face_point, "face")

    turns = figures if style.person_by_person else zip(*figures, strict=True)
    for draw, shape, width, color in chain.from_iterable(turns):
        if shape is not None:
            draw(canvas, shape, width, color, shift)
    return canvas


def overlay(
    image: np.ndarray,
    people: People,
    style: str | Style = "openpose",
    *,
    opacity: float = 1.0,
    parts: Iterable[str] = PARTS,
    feet: bool = False,
    threshold: float = 0.3,
    thickness: float = 1.0,
    color_by_person: bool = False,
) -> np.ndarray:
    """The figures of the pose map laid over a photograph, for people to look at.

    Hands and face are drawn finer than on a map, or they would hide what they are on. Images of up to 2048 pixels get
    smooth edges: figures are drawn at twice the size and averaged down.

    Args:
        image: (H, W, 3) uint8 RGB; may be of another size than `people.image_size`.
        style, parts, feet, threshold, color_by_person: as in `render`.
        opacity: 1 hides the photograph under the figures, 0 hides the figures.
        thickness: as in `render`, times the short side / 512 (if more than 1): a large photograph gets thick lines.

    Returns:
        (H, W, 3) uint8 RGB, a new array; where nothing is drawn, the photograph as it was.

    Raises:
        ValueError: as `render`, and for an image or opacity that cannot be used.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"overlay needs an (H, W, 3) uint8 RGB image, got {image.dtype} of shape {image.shape}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, got {opacity}")
    height, width = image.shape[:2]
    fold = 2 if max(height, width) <= 2048 else 1
    fine = replace(find_style(style), hand_line=1, hand_joint=1, face_point=1)
    pen = _pen(fine, fold * thickness * max(1.0, min(height, width) / 512), max(height, width))
    figures = render(
        people,
        (fold * height, fold * width),
        replace(pen, xinsir_sticks=False),
        parts=parts,
        feet=feet,
        threshold=threshold,
        color_by_person=color_by_person,
    )
    # any(axis=2) would take longer than the drawing
    cover = 255 * ((figures[..., 0] | figures[..., 1] | figures[..., 2]) > 0).view(np.uint8)
    if fold > 1:
        figures, cover = (cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in (figures, cover))
    out = image.copy()
    drawn = cover > 0
    behind = 1 - np.float32(opacity / 255) * cover[drawn, None]
    out[drawn] = np.rint(image[drawn] * behind + np.float32(opacity) * figures[drawn]).clip(0, 255)
    return out


def find_style(style: str | Style) -> Style:
    """The style of that name, or the style itself. Raises ValueError listing the names."""
    if isinstance(style, Style):
        return style
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}, or pass a render.Style")
    return STYLES[style]


def _canvas(size: Sequence[int], background: np.ndarray | Sequence[int] | None) -> np.ndarray:
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"size must be two whole numbers (H, W), got {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"size must be (H, W) with both >= 1, got {(height, width)}")
    canvas = np.zeros((height, width, 3), np.uint8)
    if background is not None:
        background = np.asarray(background)
        if background.shape == canvas.shape and background.dtype == np.uint8:
            canvas[:] = background
        elif (
            background.shape == (3,)
            and background.dtype.kind in "iu"
            and ((background >= 0) & (background < 256)).all()
        ):
            canvas[:] = background
        else:
            raise ValueError(
                f"background must be an RGB colour of three whole numbers in 0..255 or a {canvas.shape} uint8 image, "
                f"got {background.dtype} of shape {background.shape}"
            )
    return canvas


def _pen(style: Style, thickness: float, longer_side: int) -> Style:
    """The style with its lengths in whole pixels of this map."""
    if not 0 < thickness < math.inf:
        raise ValueError(f"thickness must be a positive factor, got {thickness}")
    stick = style.stick
    if style.xinsir_sticks and longer_side >= 500:
        stick *= min(2 + longer_side // 1000, 7)
    lengths = {"stick": stick} | {
        name: getattr(style, name) for name in ("joint", "hand_line", "hand_joint", "face_point")
    }
    return replace(
        style, **{name: max(1, round(min(length * thickness, _THICKEST))) for name, length in lengths.items()}
    )


def _bones(
    xy: np.ndarray, visible: np.ndarray, edges: Sequence[tuple[int, int]], shift: int
) -> list[list[tuple | None]]:
    """Ellipse (centre x, centre y, half length, angle in degrees) of each edge of each person, None where undrawn;
    lengths in pixels / 2^shift.

    ControlNet truncates all four, computed in float32 (the angle in float64).
    """
    first, second = np.array(edges).T
    start, end = xy[:, first], xy[:, second]
    delta = start - end
    half = np.sqrt(np.square(delta).sum(-1, dtype=np.float32)) / 2
    angle = np.degrees(np.arctan2(delta[..., 1].astype(np.float64), delta[..., 0]))
    ellipses = np.concatenate([(start + end) / 2, half[..., None], angle[..., None]], axis=-1)
    if shift:
        ellipses[..., :3] *= 1 << shift
    else:
        ellipses = ellipses.astype(np.int64)
    return _where(ellipses, visible[:, first] & visible[:, second])


def _pixels(xy: np.ndarray, visible: np.ndarray, shift: int, positive: bool = False) -> list[list[tuple | None]]:
    """The points of each person in whole pixels / 2^shift, None where undrawn; positive: ControlNet skips hand and
    face points that are not right of and below pixel 0 (the original's way to mark what is missing)."""
    whole = (xy * np.float32(1 << shift)).astype(np.int64)
    return _where(whole, visible & (xy >= 1).all(-1) if positive else visible)


def _where(values: np.ndarray, visible: np.ndarray) -> list[list[tuple | None]]:
    return [
        [tuple(value) if seen else None for value, seen in zip(row, mask, strict=True)]
        for row, mask in zip(values.tolist(), visible.tolist(), strict=True)
    ]


def _draw_bone(canvas: np.ndarray, ellipse: tuple, half_width: int, color: Color, shift: int) -> None:
    x, y, half_length, angle = ellipse
    if shift:
        _fill_smooth(canvas, (x, y), (half_length, half_width << shift), angle, color)
    else:
        cv2.fillConvexPoly(canvas, cv2.ellipse2Poly((x, y), (half_length, half_width), angle, 0, 360, 1), color)


def _draw_dot(canvas: np.ndarray, point: Point, radius: int, color: Color, shift: int) -> None:
    if shift:
        _fill_smooth(canvas, point, (radius << shift, radius << shift), 0.0, color)
    else:
        cv2.circle(canvas, point, radius, color, -1)


def _fill_smooth(canvas: np.ndarray, center: tuple, axes: tuple, angle: float, color: Color) -> None:
    """An ellipse with smooth edges; centre and half axes in pixels / 2^_FINE, angle in degrees. OpenCV's own smooth
    circles are up to a fifth too small where they are as small as ours."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = (_CIRCLE * [max(axis - _RIM, 0) for axis in axes]).T
    outline = np.stack([center[0] + x * cos - y * sin, center[1] + x * sin + y * cos], axis=1)
    cv2.fillConvexPoly(canvas, np.rint(outline).astype(np.int32), color, cv2.LINE_AA, _FINE)


def _draw_hand(canvas: np.ndarray, points: list[Point | None], pens: tuple, colors: tuple, shift: int) -> None:
    line, radius = pens
    fingers, joint = colors
    for (first, second), color in zip(HAND_EDGES, fingers, strict=True):
        if points[first] and points[second]:
            cv2.line(canvas, points[first], points[second], color, line, cv2.LINE_AA if shift else cv2.LINE_8, shift)
    for point in points:
        if point:
            _draw_dot(canvas, point, radius, joint, shift)


class _Palette(NamedTuple):
    """RGB colours of one person, one for each drawing step."""

    limbs: list[Color]
    joints: list[Color]
    foot_bones: list[Color]
    foot_joints: list[Color]
    hand: list[tuple[list[Color], Color]]
    face: list[Color]


@lru_cache(maxsize=256)
def _palette(limb_brightness: float, hue: float | None) -> _Palette:
    """ControlNet's colours, or with a hue (0..1) shades of it."""
    joints, feet = OPENPOSE_COLORS, [color for color in FOOT_COLORS for _ in range(3)]
    fingers = [_hsv(i / len(HAND_EDGES), 1.0) for i in range(len(HAND_EDGES))]
    hand_joint, face = (0, 0, 255), (255, 255, 255)
    if hue is not None:
        joints, feet, fingers = [_hsv(hue, 0.75)] * 18, [_hsv(hue, 0.75)] * 6, [_hsv(hue, 0.75)] * 20
        hand_joint, face = _hsv(hue, 0.4), _hsv(hue, 0.25)

    def dim(colors: Iterable[Color]) -> list[Color]:
        return [tuple(int(limb_brightness * channel) for channel in color) for color in colors]

    return _Palette(dim(joints[:17]), joints, dim(feet), feet, [(fingers, hand_joint)], [face] * 70)


def _hsv(hue: float, saturation: float) -> Color:
    # round() and OpenCV's conversion of float colours both take halves to the even number
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, 1.0))


def _hues(people: People, color_by_person: bool) -> list[float | None]:
    """Hues by track id, or by position; steps of the golden ratio keep any number of neighbours apart."""
    if not color_by_person:
        return [None] * len(people)
    numbers = range(len(people)) if people.id is None else people.id.tolist()
    return [(0.02 + number * 0.618034) % 1 for number in numbers]
