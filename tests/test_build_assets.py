"""Packed body assets from their sources: licences, git-LFS pointers, atomic and reproducible output.

The source trees are made up here; with DWPOSE_ASSET_SOURCES naming a folder of real checkouts (makehuman,
makehuman-assets, hdri, backgrounds, and pictures for LFS content) the result is compared with the reference pack.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.asset_toys import TRIANGLE, pointer, put, put_trees
from training.synthetic.assets import clothing, motion
from training.synthetic.assets.sources import Checkout, PictureStore, lfs_pointer
from training.synthetic.build_assets import build_assets, report
from training.synthetic.labels import KEYPOINT_RULES


@pytest.fixture
def trees(tmp_path) -> dict[str, Path]:
    return put_trees(tmp_path / "sources")


@pytest.fixture
def cmu(tmp_path) -> Path:
    """A hip with one joint above all others, turned by 90 degrees about Z."""
    lines = ["HIERARCHY", "ROOT CC_Base_Hip", "{", "OFFSET 0 9 0"]
    lines += ["CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"]
    for name in motion.JOINTS[1:]:
        lines += [f"JOINT CC_Base_{name}", "{", "OFFSET 1 2 3", "CHANNELS 3 Zrotation Yrotation Xrotation"]
        lines += ["End Site", "{", "OFFSET 5 5 5", "}", "}"]
    still = " 0 0 0" * (len(motion.JOINTS) - 1)
    lines += ["}", "MOTION", "Frames: 2", "Frame Time: 0.1", "7 8 9 0 0 0" + still, "7 8 9 90 0 0" + still, ""]
    root = tmp_path / "sources" / "cmu"
    put(root / "All_BVH/001/001_01.bvh", "\n".join(lines))
    put(root / "All_BVH/001/001_02.bvh", "\n".join(lines).replace("CC_Base_Hip", "RL_BoneRoot"))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def clothing_order(name: str) -> tuple[int, str]:
    return clothing.KINDS.index(name.split("/")[0]), name


def dense_weights(base) -> np.ndarray:
    """(vertices, bones) skinning weights of a base.npz."""
    table = np.zeros((len(base["verts"]), len(base["bones"])), np.float32)
    np.add.at(table, (np.arange(len(table))[:, None], base["skin_idx"]), base["skin_w"])
    return table


# Motion capture


def test_motion_capture_positions(cmu):
    arrays = motion.motion_arrays(Checkout("cmu", cmu))
    assert arrays["clip_names"].tolist() == ["001_01"]  # the other clip is on another skeleton
    assert arrays["clip"].tolist() == [0, 0] and arrays["joints"].tolist() == list(motion.JOINTS)
    assert arrays["pos"].shape == (2, 25, 3) and arrays["pos"].dtype == np.float16
    assert (arrays["pos"][:, 0] == 0).all()
    np.testing.assert_array_equal(arrays["pos"][0, 1:], np.float16([[1, 2, 3]] * 24))
    np.testing.assert_array_equal(arrays["pos"][1, 1:], np.float16([[-2, 1, 3]] * 24))  # 90 degrees about Z


def test_long_clips_are_thinned(cmu):
    clip = motion.read_bvh((cmu / "All_BVH/001/001_01.bvh").read_text())
    assert motion.joint_positions(clip, most=1).shape == (1, 25, 3)
    np.testing.assert_array_equal(motion.joint_positions(clip)[0, 0], (7, 8, 9))


# The whole folder


def test_pack_is_what_the_readers_expect(trees, cmu, tmp_path):
    pytest.importorskip("scipy", reason="the body model needs scipy")
    from training.synthetic.backgrounds import Backgrounds
    from training.synthetic.body import BodyModel
    from training.synthetic.light import LightSampler
    from training.synthetic.poses import read_pose_file

    out = tmp_path / "made" / "pack"
    build_assets({**trees, "cmu": cmu}, out, allow_cmu=True)
    model = BodyModel(out)
    assert model.target_names == ["chin/wide"]
    moved = model.morph({"chin/wide": 1.0}) - model.base
    # 0.0005 rounds to nothing, 0.0041 to one step of 0.004, 0.006 (a half step) to the even 0.008.
    expected = np.zeros((6, 3))
    expected[0], expected[5] = (0.012, 0, -0.004), (0, 0.004, 0.008)
    np.testing.assert_allclose(moved, expected, atol=1e-9)
    np.testing.assert_allclose(model.weights.toarray()[:3], [[1, 0], [0.75, 0.25], [0, 1]], atol=1e-3)
    np.testing.assert_allclose(model.weights.toarray()[3:], [[1, 0]] * 3)  # without weights: the root
    np.testing.assert_allclose(model.tail_mean @ model.base, [[1, 1, 0], [1 / 3, 1 / 3, 2 / 3]])

    shape = model.shape_of(model.base, 0.0)
    fitted = model.fit(model.proxies["clothes/coat"], shape, model.pose(shape, {}, {}))
    first = 0.5 * model.base[0] + 0.25 * model.base[1] + 0.25 * model.base[2] + np.array((0.1 / 0.5, 0.2 / 4, 0.3 / 2))
    np.testing.assert_allclose(fitted, [first, model.base[3], model.base[4]], atol=1e-6)
    coat = model.proxies["clothes/coat"]
    assert (coat.texture, coat.occlusion) == ("clothes_coat.png", "clothes_coat_ao.jpg")
    assert model.proxies["hair/bob"].texture == "hair_bob.png" and model.proxies["hair/bob01"].texture is None
    assert sorted(model.proxies, key=clothing_order) == list(model.proxies)

    textures = {path.name for path in (out / "tex").iterdir()}
    assert {"eye_blue_eye.png", "eye_brown_eye.png", "skin_young.jpg"} < textures
    assert cv2.imread(str(out / "tex/skin_young.jpg")).shape == (1024, 512, 3)
    assert len(LightSampler(out / "hdri").panoramas) == 1
    backgrounds = Backgrounds(out)
    assert len(backgrounds.photos) == len(backgrounds.panoramas) == 1  # the planet is left out
    assert cv2.imread(str(out / "backgrounds/budgie_hills.jpg")).shape == (768, 1280, 3)
    np.testing.assert_allclose(read_pose_file(out / "bvh/run.bvh")["root"] @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    assert np.load(out / "poses_cmu.npz")["pos"].shape == (2, 25, 3)


def test_keypoint_rules_are_whole():
    table = json.loads(KEYPOINT_RULES.read_text())
    assert len(table["names"]) == len(table["keypoints"]) == 133
    kinds = {"vertex_mean", "bone_head", "bone_tail"}
    assert all(len(kinds & set(rule)) == 1 for rule in table["keypoints"])


def test_same_sources_give_the_same_bytes(trees, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    build_assets(trees, first)
    build_assets(trees, second)
    assert contents(first) == contents(second)


def test_manifest_names_every_file_and_its_origin(trees, tmp_path):
    out = tmp_path / "pack"
    manifest = build_assets(trees, out)
    assert json.loads((out / "manifest.json").read_text()) == manifest
    files = contents(out)
    del files["manifest.json"]
    assert {e["file"]: e["sha256"] for e in manifest["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    repositories = {
        "makehumancommunity/makehuman": "makehuman",
        "makehumancommunity/makehuman-assets": "makehuman-assets",
    }
    repositories |= {"pmndrs/assets": "hdri", "BuddiesOfBudgie/budgie-backgrounds": "backgrounds"}
    for entry in manifest["files"]:
        assert entry["licence"] == "CC0-1.0" and entry["bytes"] == len(files[entry["file"]])
        for origin in entry["from"]:
            root = trees[repositories[origin["source"]]]
            assert origin["commit"] is None  # no git work tree
            for name, sha256 in origin["files"].items():
                assert hashlib.sha256((root / name).read_bytes()).hexdigest() == sha256
    origins = {entry["file"]: [name for o in entry["from"] for name in o["files"]] for entry in manifest["files"]}
    assert origins["tex/clothes_coat_ao.jpg"] == ["base/clothes/coat/coat_ao.png"]
    assert origins["backgrounds/pano_hall.jpg"] == ["src/hdri/hall.hdr"]
    assert [name for name, made_from in origins.items() if not made_from] == ["proxies.json"]


def test_more_pictures(trees, tmp_path):
    build_assets(trees, tmp_path / "pack", more_pictures=True)
    assert json.loads((tmp_path / "pack/proxies.json").read_text())["hair/bob01"]["tex"] == "hair_bob01.png"


def test_report_says_what_was_taken_and_what_is_missing(trees, tmp_path):
    del trees["hdri"]
    lines = report(build_assets(trees, tmp_path / "pack"), trees)
    assert "makehumancommunity/makehuman-assets, commit unknown" in lines and "reference pack: 8cf9645" in lines
    assert lines.count("licence: CC0-1.0") == 3
    assert "pmndrs/assets: not given (--hdri, https://github.com/pmndrs/assets), so no light" in lines
    assert "Rendering needs the light of --hdri" in lines


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_of_a_work_tree(trees, tmp_path):
    root = trees["makehuman"]
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "data"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    manifest = build_assets(trees, tmp_path / "pack")
    (base,) = (entry for entry in manifest["files"] if entry["file"] == "base.npz")
    assert [origin["commit"] for origin in base["from"]] == [head]


# Refusals


def broken_mesh(trees):
    put(trees["makehuman-assets"] / "base/hair/bob/bob.obj", "v 0 0 0\nf 1 1 1\n")


def agpl_repository(trees):
    put(trees["makehuman-assets"] / "LICENSE.txt", "GNU AFFERO GENERAL PUBLIC LICENSE\n")


def agpl_mesh(trees):
    put(trees["makehuman-assets"] / "base/hair/bob/bob.obj", "# license AGPL3\n" + TRIANGLE)


def attribution_target(trees):
    put(trees["makehuman"] / "makehuman/data/targets/chin/wide.target", "# CC-BY 4.0, someone\n0 1 0 0\n")


def proprietary_pose(trees):
    put(trees["makehuman-assets"] / "base/poses/run.meta", "name run\nlicense ask the author\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t["makehuman"] / "LICENSE.ASSETS.md").unlink(), "has no LICENSE.ASSETS.md, so nothing says"),
        (agpl_repository, "is not the CC0 1.0 text .it begins with 'GNU AFFERO"),
        (agpl_mesh, r"bob.obj is not CC0: its header says '# license AGPL3'"),
        (attribution_target, r"wide.target is not CC0: its header says '# CC-BY 4.0, someone'"),
        (proprietary_pose, r"run.meta is not CC0: its header says 'license ask the author'"),
        (lambda t: shutil.rmtree(t["hdri"] / "src"), "--hdri must name a checkout of https://github.com/pmndrs/assets"),
        (lambda t: shutil.rmtree(t["makehuman-assets"] / "base/hair"), "no .mhclo files of hair"),
        (lambda t: (t["makehuman-assets"] / "base/poses/run.meta").unlink(), "run.meta is missing"),
        (lambda t: put(t["backgrounds"] / "backgrounds/hills.jpg", b"no picture"), "hills.jpg: not a picture"),
        (lambda t: put(t["hdri"] / "src/hdri/hall.hdr", b""), "hall.hdr: not a picture"),
        (
            lambda t: put(t["makehuman"] / "makehuman/data/targets/chin/wide.target", "0 1\n"),
            "wide.target: .* 2 numbers",
        ),
        (lambda t: put(t["makehuman"] / "makehuman/data/rigs/default.mhskel", "{"), "default.mhskel: Expecting"),
        (broken_mesh, "fits 3 vertices, bob.obj has 1"),
    ],
)
def test_refusals_leave_nothing_behind(trees, tmp_path, change, message):
    change(trees)
    with pytest.raises(ValueError, match=message):
        build_assets(trees, tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


def test_motion_capture_needs_consent(trees, cmu, tmp_path):
    with pytest.raises(ValueError, match=r"--cmu is not CC0; give --allow-cmu if you accept: CMU terms"):
        build_assets({**trees, "cmu": cmu}, tmp_path / "pack")


def test_existing_folder_is_kept(trees, tmp_path):
    put(tmp_path / "pack" / "mine.txt", "kept")
    with pytest.raises(ValueError, match="exists; name a new folder"):
        build_assets(trees, tmp_path / "pack")
    assert contents(tmp_path / "pack") == {"mine.txt": b"kept"}


def test_rest_of_a_killed_run_is_no_obstacle(trees, tmp_path):
    put(tmp_path / ".pack.partial" / "tex" / "half.png", b"x")
    build_assets(trees, tmp_path / "pack")
    assert "tex/half.png" not in contents(tmp_path / "pack") and not (tmp_path / ".pack.partial").exists()


def test_command_line(trees, tmp_path):
    options = [word for key, root in trees.items() for word in (f"--{key}", str(root))]
    command = [sys.executable, "-m", "training.synthetic.build_assets", *options, "--out", str(tmp_path / "pack")]
    run = {"cwd": Path(__file__).parents[1], "capture_output": True, "text": True}
    done = subprocess.run(command, **run)
    assert done.returncode == 0 and "licence: CC0-1.0" in done.stdout, done.stderr
    again = subprocess.run(command, **run)
    assert again.returncode == 1 and again.stderr.strip().endswith("exists; name a new folder or remove it")
    assert "Traceback" not in again.stderr


# git-LFS


def test_pointer_is_recognised():
    assert lfs_pointer(pointer(b"abc")) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert lfs_pointer(b"\x89PNG\r\n") is None


def test_pointers_are_resolved_by_content(trees, tmp_path):
    build_assets(trees, tmp_path / "whole")
    names = ("base/hair/bob/bob.png", "base/skins/textures/young.png")
    store = tmp_path / "mirror"
    for name in names:
        path = trees["makehuman-assets"] / name
        put(store / "elsewhere" / f"other-{path.name}", path.read_bytes())
        path.write_bytes(pointer(path.read_bytes()))

    with pytest.raises(ValueError, match="2 of 9 files of makehumancommunity/makehuman-assets are git-LFS") as error:
        build_assets(trees, tmp_path / "pack")
    assert all(name in str(error.value) for name in names)
    assert f"git -C {trees['makehuman-assets']} lfs pull" in str(error.value)

    build_assets(trees, tmp_path / "pack", (store,))
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")

    wrong = store / "elsewhere" / "other-bob.png"
    put(wrong, wrong.read_bytes()[:-1] + b"?")  # same name and size, another picture
    with pytest.raises(ValueError, match="1 of 9 files"):
        build_assets(trees, tmp_path / "again", (store,))


def test_picture_folder_must_exist(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        PictureStore([tmp_path / "nowhere"])


# The real sources


@pytest.fixture(scope="module")
def real_pack(shared, tmp_path_factory) -> Path:
    if "DWPOSE_ASSET_SOURCES" not in os.environ:
        pytest.skip("DWPOSE_ASSET_SOURCES names no folder with checkouts of the asset sources")
    sources = Path(os.environ["DWPOSE_ASSET_SOURCES"])
    keys = ["makehuman", "makehuman-assets", "hdri", "backgrounds"] + ["cmu"] * (sources / "cmu").is_dir()
    stores = tuple(path for path in (sources / "pictures",) if path.is_dir())
    out = tmp_path_factory.mktemp("real") / "pack"
    build_assets({key: sources / key for key in keys}, out, stores, allow_cmu=True)
    return out


def test_real_sources_give_the_reference_pack(shared, real_pack):
    reference = shared / "assets" / "synth"
    built, packed = contents(real_pack), contents(reference)
    del packed["README.md"], packed["keypoints133.json"]  # the rules are read from the repository
    if "poses_cmu.npz" not in built:
        del packed["poses_cmu.npz"]
    assert set(built) == set(packed) | {"manifest.json"}
    mine, theirs = (np.load(folder / "base.npz") for folder in (real_pack, reference))
    assert mine.files == theirs.files
    for field in mine.files:
        if field != "skin_idx":
            np.testing.assert_array_equal(mine[field], theirs[field], err_msg=field)
    # Which bones stand beside weight zero, and the order of equal weights, say nothing.
    np.testing.assert_array_equal(dense_weights(mine), dense_weights(theirs))
    different = [name for name in packed if name != "base.npz" and built[name] != packed[name]]
    assert different == []  # everything else to the byte


def test_real_pack_renders_the_same_people(shared, real_pack):
    moderngl = pytest.importorskip("moderngl", reason="rendering needs moderngl")
    try:
        moderngl.create_context(standalone=True, backend="egl").release()
    except Exception as error:
        pytest.skip(f"no EGL to render with: {error}")
    from training.synthetic.generate import PersonGenerator

    mine, theirs = (PersonGenerator(folder, (96, 128)) for folder in (real_pack, shared / "assets" / "synth"))
    for number in range(0, 48, 6):  # one of each body
        a, b = mine.person(5, number), theirs.person(5, number)
        np.testing.assert_array_equal(a.rgba, b.rgba)
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.visible, b.visible)
