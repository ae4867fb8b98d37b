"""Backgrounds from photographs of many repositories: what is taken, under which words, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.asset_toys import picture, put, put_trees
from training.synthetic.assets import photographs, pictures
from training.synthetic.build_assets import build_assets, report


@pytest.fixture
def trees(tmp_path) -> dict[str, Path]:
    return put_trees(tmp_path / "sources")


@pytest.fixture
def album(tmp_path, monkeypatch) -> Path:
    """Checkouts of a made-up photographs.json: two pictures of one repository, a panorama of another."""
    files = {"one/shop": ["img/chair.png", "img/door.jpg"], "two/sky": ["hdri/sky.hdr"]}
    root = tmp_path / "sources" / "photographs"
    put(root / "one/shop/img/chair.png", picture(".png", (1000, 2560, 4)))
    put(root / "one/shop/img/door.jpg", picture(".jpg", (30, 20, 3)))
    put(root / "one/shop/readme.txt", "License: GPL 3\r\n* Images:\r\n\tAll are CC0 1.0\r\n")
    put(root / "two/sky/hdri/sky.hdr", picture(".hdr", (256, 512, 3)))
    put(root / "two/sky/readme.txt", "in the public domain")
    table = {}
    for (repository, paths), words in zip(files.items(), ("Images: All are CC0", "public domain"), strict=True):
        found = {
            f"{'pano' if path.endswith('.hdr') else 'shop'}_{Path(path).stem}": {
                "path": path,
                "sha256": hashlib.sha256((root / repository / path).read_bytes()).hexdigest(),
            }
            for path in paths
        }
        part = {"licence": words[-13:], "licence_file": "readme.txt", "words": [words], "pictures": found}
        table[repository] = {"commit": repository[0] * 40, "parts": [part]}
    table["one/shop"]["parts"][0] |= {"licence": "CC0-1.0"}
    table["one/shop"]["parts"][0]["pictures"]["shop_chair"]["crop"] = [0.25, 0, 1, 0.5]
    put(tmp_path / "sources" / "photographs.json", json.dumps(table))
    monkeypatch.setattr(photographs, "TABLE", tmp_path / "sources" / "photographs.json")
    return root


def test_photographs(trees, album, tmp_path):
    manifest = build_assets(trees, tmp_path / "pack", photographs=album)
    backgrounds = tmp_path / "pack" / "backgrounds"
    shapes = {path.stem: cv2.imread(str(path)).shape for path in backgrounds.glob("*.jpg")}
    assert shapes["shop_chair"] == (250, 960, 3)  # 1280 wide, then three quarters of the width and half the height
    assert shapes["shop_door"] == (30, 20, 3) and shapes["pano_sky"] == (256, 512, 3)
    assert {"budgie_hills", "pano_hall"} < set(shapes)

    entries = {entry["file"]: entry for entry in manifest["files"]}
    (origin,) = entries["backgrounds/shop_door.jpg"]["from"]
    assert (origin["source"], origin["commit"], origin["licence"]) == ("one/shop", None, "CC0-1.0")
    assert origin["files"] == {
        name: hashlib.sha256((album / "one/shop" / name).read_bytes()).hexdigest()
        for name in ("img/door.jpg", "readme.txt")
    }
    assert entries["backgrounds/pano_sky.jpg"]["licence"] == "public domain"
    assert "2 repositories of photographs: 3 files\n    licence: CC0-1.0, public domain" in report(manifest, trees)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: put(a / "one/shop/img/door.jpg", b"another"),
            "door.jpg has sha256 .* check out .*one/shop at commit",
        ),
        (lambda a: put(a / "one/shop/readme.txt", "Images: All are mine"), "does not say 'Images: All are CC0'"),
        (
            lambda a: (a / "two/sky/readme.txt").unlink(),
            "readme.txt is missing, so nothing says the pictures are public",
        ),
        (lambda a: (a / "two/sky/hdri/sky.hdr").unlink(), "sky.hdr is missing; check out https://github.com/two/sky"),
        (lambda a: shutil.rmtree(a / "two"), f"lacks 1 of 2 checkouts; .*\n  two/sky {'t' * 40}$"),
        (lambda a: shutil.rmtree(a), f"lacks 2 of 2 checkouts; .*\n  one/shop {'o' * 40}\n  two/sky {'t' * 40}$"),
    ],
)
def test_photographs_are_refused(trees, album, tmp_path, change, message):
    change(album)
    with pytest.raises(ValueError, match=message):
        build_assets(trees, tmp_path / "pack", photographs=album)
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


def test_dim_panorama_levels():
    image = np.full((512, 1024, 3), 0.4, np.float32)
    image[:64], image[-64:] = 0.4 * 3 / 0.225, 0  # what is to become white, and black
    data = pictures.dim_panorama(cv2.imencode(".hdr", image)[1].tobytes())
    result = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, 0, 0]
    middle = 255 * (0.225 * (1 + 0.225 / 9) / 1.225) ** (1 / 2.2)
    np.testing.assert_allclose(result[[10, 256, -10]], (255, middle, 0), atol=3)


def test_table_of_photographs():
    parts = photographs.read_parts()
    files = [file for part in parts for file in part.photographs]
    names = [file.name for file in files]
    assert len(set(names)) == len(names) == 201 and sum(name.startswith("pano_") for name in names) == 21
    assert len({part.source.repository for part in parts}) == 51
    assert all(len(part.source.commit) == 40 and part.words and all(part.words) for part in parts)
    assert {part.source.licence for part in parts} == {"CC0-1.0", "public domain"}
    assert all(len(file.sha256) == 64 for file in files) and len({file.sha256 for file in files}) == 201
    for left, top, right, bottom in (file.crop for file in files):
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
