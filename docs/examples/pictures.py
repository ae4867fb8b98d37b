"""Makes the pictures of docs/diffusers.md with the code of the other examples.

python docs/examples/pictures.py ASSETS

ASSETS is the folder of body assets that `training.synthetic` renders people from. A rendered person has exact
keypoints, which stand in for the networks: the pictures show drawing, sizes and crops, and not how good any weights
are. What is shown is what the examples hand to their pipelines, each of which is replaced by something that only takes
it down.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import flux
import numpy as np
import sd15
import sdxl
import vace
import wan_animate
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for training, which is not installed

from dwpose_core.edit import affine  # noqa: E402
from dwpose_core.people import People  # noqa: E402
from dwpose_core.preprocessor import DWposeDetector  # noqa: E402
from training.synthetic.generate import PersonGenerator  # noqa: E402

SEED, PERSON = 77, 16
SIZE = (640, 832)  # (W, H)


class Known:
    """In place of the networks: knows who is in the pictures, which come in order."""

    name, device, input_size = "labels", None, (384, 288)

    def __init__(self, frames):
        self.frames = frames

    def estimate(self, images, *_):
        found, self.frames = self.frames[: len(images)], self.frames[len(images) :] or self.frames[:1]
        return [scaled(people, image.shape[:2]) for people, image in zip(found, images, strict=True)]


def scaled(people, size):
    factor = np.float32([size[1] / people.image_size[1], size[0] / people.image_size[0]])
    return replace(people, xy=people.xy * factor, box=people.box * np.tile(factor, 2), image_size=size)


class Recorder:
    """In place of a diffusion pipeline: keeps what it is given."""

    def __call__(self, *_, **given):
        self.given = given
        return SimpleNamespace(images=[None], frames=[[]])


def render_person(assets):
    layer = PersonGenerator(assets, SIZE, supersample=2).person(SEED, PERSON)
    rows = np.linspace(0, 1, SIZE[1])[:, None, None]
    wall = (1 - rows) * (196, 208, 216) + rows * (120, 128, 138)
    alpha = layer.rgba[..., 3:] / 255
    photo = np.uint8(layer.rgba[..., :3] * alpha + wall * (1 - alpha))
    # The border of the imagined photograph: keypoints outside of it are not labelled.
    x1, y1, x2, y2 = np.clip(np.rint(layer.frame).astype(int), 0, (*SIZE, *SIZE))
    xy = layer.keypoints[None] - np.float32([x1, y1])
    box = np.array([[0, 0, x2 - x1, y2 - y1]], np.float32)
    score = (layer.visible > 0)[None].astype(np.float32)
    return np.ascontiguousarray(photo[y1:y2, x1:x2]), People(xy, score, box, np.ones(1), (y2 - y1, x2 - x1))


def swaying(photo, people, count=31):
    """The picture seen by a camera in somebody's hand."""
    images, frames = [], []
    for number in range(count):
        t = 2 * np.pi * number / (count - 1)
        change = {"scale": 1.1 + 0.1 * np.sin(t), "rotate": 6 * np.sin(t), "move": (60 * np.sin(t), 25 * np.sin(2 * t))}
        moved = affine(people, **change)
        matrix, _ = cv2.estimateAffinePartial2D(people.xy[0], moved.xy[0])
        images.append(cv2.warpAffine(photo, matrix, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
        frames.append(moved)
    return images, frames


def sheet(rows, width, path):
    """Rows of (title, picture) in columns of `width` pixels, titles above; white between."""
    font = ImageFont.load_default(14)
    lines = []
    for row in rows:
        pictures = [Image.fromarray(p) if isinstance(p, np.ndarray) else p for _, p in row]
        pictures = [p.resize((width, round(p.height * width / p.width)), Image.Resampling.LANCZOS) for p in pictures]
        height = max(picture.height for picture in pictures)
        line = Image.new("RGB", (len(row) * (width + 6), height + 28), "white")
        for column, ((title, _), picture) in enumerate(zip(row, pictures, strict=True)):
            line.paste(picture, (column * (width + 6) + 3, 24))
            ImageDraw.Draw(line).text((column * (width + 6) + 4, 4), title, fill="black", font=font)
        lines.append(np.array(line))
    Image.fromarray(np.concatenate(lines)).save(path, quality=88, optimize=True)


def main(assets, out=ROOT / "docs" / "images" / "diffusers"):
    photo, people = render_person(Path(assets))
    known = Known([people])
    detector = DWposeDetector(known)
    with (
        mock.patch("dwpose_core.preprocessor.estimate_people", known.estimate),
        mock.patch.object(Known, "device", property(lambda self: None)),
    ):
        tiles = [("photograph (rendered)", photo)]
        for title, example in (("sd15.py, 512", sd15), ("flux.py, 1024", flux), ("sdxl.py, xinsir, 1024", sdxl)):
            pose_map, _ = example.generate(Recorder(), detector, photo, "a dancer")
            tiles.append((title, pose_map))
        images, known.frames = swaying(photo, people)
        pipe = Recorder()
        poses, _ = vace.generate(pipe, detector, images, "a dancer", progress=False)
        sheet([[*tiles, ("vace.py, dwpose", poses[0])]], 232, out / "maps.jpg")

        images, known.frames = swaying(photo, people)
        pipe = Recorder()
        wan_animate.animate(pipe, detector, Image.fromarray(photo), images, "a dancer", progress=False)
        shown = range(0, 30, 5)
        rows = [
            [(f"{title} {i}", pictures[i]) for i in shown]
            for title, pictures in (
                ("driving video,", images),
                ("pose_video,", pipe.given["pose_video"]),
                ("face_video,", pipe.given["face_video"]),
            )
        ]
        sheet(rows, 190, out / "wan_animate.jpg")


if __name__ == "__main__":
    main(*sys.argv[1:])
