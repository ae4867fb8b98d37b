"""Offscreen OpenGL renderer (moderngl through EGL, hardware or Mesa's llvmpipe): triangles -> RGBA and distance.

Everything arrives in view space: camera at the origin, looking to -Z, decimetres. Textures are sRGB, light is linear.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..pictures import imread
from .camera import FAR, NEAR
from .items import Item
from .light import Light
from .shadows import ShadowMaps, Shadows
from .workers import DrawingFailed

HELD = 128  # textures of a renderer; every worker has one
VERTEX_SHADER = """
#version 330
uniform mat4 projection;
in vec3 in_position; in vec3 in_normal; in vec2 in_uv; in float in_inside;
out vec3 position; out vec3 normal; out vec2 uv; out float inside;
void main() {
    position = in_position; normal = in_normal; uv = in_uv; inside = in_inside;
    gl_Position = projection * vec4(in_position, 1.0);
}
"""

# Light: irradiance of an environment as nine spherical harmonics (Ramamoorthi and Hanrahan 2001) plus one lamp.
FRAGMENT_SHADER = """
#version 330
uniform sampler2D texture_map; uniform sampler2D occlusion_map;
uniform int texture_use;      // 0 plain colour, 1 the texture's colour, 2 the texture's brightness on plain colour
uniform bool has_occlusion; uniform bool translucent; uniform float alpha_min; uniform float opacity;
uniform vec3 tint; uniform vec3 plain; uniform float shine;
uniform int weave; uniform vec3 weave_color; uniform vec3 weave_form;   // form: per metre, threshold, strength
uniform vec2 folds;           // depth and density per metre of cloth folds
uniform vec3 harmonics[9]; uniform vec3 lamp_direction; uniform vec3 lamp_color;
uniform mat3 light_axes;      // view space -> the axes of the harmonics
uniform bool shadowed; uniform bool catcher;
uniform sampler2DShadow lamp_map; uniform sampler2DShadow sky_map;
uniform mat4 lamp_matrix; uniform mat4 sky_matrix;      // view space -> map coordinates and depth, 0..1
uniform vec4 shadow_form;     // lamp blur and sky blur in map coordinates, bias in dm, depth of the sky's shade
in vec3 position; in vec3 normal; in vec2 uv; in float inside;
out vec4 pixel;

// Integers, because drivers agree on them: a sine differs in its last bits, and a hash makes anything of those.
float random(vec2 p) {
    uint h = uint(int(p.x)) * 0x9E3779B1u ^ uint(int(p.y)) * 0x85EBCA77u;
    h = (h ^ (h >> 15)) * 0x2C1B3C6Du;
    h = (h ^ (h >> 12)) * 0x297A2D39u;
    return float((h ^ (h >> 15)) >> 8) / 16777216.0;
}
float smooth_noise(vec2 p) {
    vec2 cell = floor(p), t = fract(p); t *= t * (3.0 - 2.0 * t);
    float low = mix(random(cell), random(cell + vec2(1, 0)), t.x);
    float high = mix(random(cell + vec2(0, 1)), random(cell + vec2(1, 1)), t.x);
    return mix(low, high, t.y);
}
float weave_at(vec2 p) {
    vec2 q = fract(p);
    if (weave == 1) return step(0.5, q.y);
    if (weave == 2) return step(0.5, q.x);
    if (weave == 3) return 0.5 * step(0.5, q.x) + 0.5 * step(0.5, q.y);
    if (weave == 4) return smoothstep(0.42, 0.58, 0.65 * smooth_noise(p) + 0.35 * smooth_noise(2.3 * p));
    if (weave == 5) return step(length(q - 0.5), 0.3);
    if (weave == 6) return step(weave_form.y, fract(0.15 * p.y));
    return 0.0;
}
// Share of `map` that is not covered above p: taps on a sunflower disc, turned per pixel so that rings do not show.
float uncovered(sampler2DShadow map, mat4 matrix, vec3 p, float radius, int taps) {
    vec3 at = (matrix * vec4(p, 1.0)).xyz;
    if (any(lessThan(at, vec3(0.0))) || any(greaterThan(at.xy, vec2(1.0)))) return 1.0;
    float spin = 6.2832 * random(gl_FragCoord.xy), sum = 0.0;
    for (int i = 0; i < taps; i++) {
        float angle = 2.39996 * float(i) + spin;
        vec2 shift = radius * sqrt((float(i) + 0.5) / float(taps)) * vec2(cos(angle), sin(angle));
        sum += texture(map, vec3(at.xy + shift, min(at.z, 1.0)));
    }
    return sum / float(taps);
}
void main() {
    if (inside < 0.0) discard;
    vec4 sample_color = texture(texture_map, uv);
    float alpha = texture_use == 0 ? 1.0 : sample_color.a;
    if (alpha < alpha_min) discard;
    vec3 linear = pow(sample_color.rgb, vec3(2.2));
    vec3 albedo = texture_use == 1 ? linear : plain;
    if (texture_use == 2) albedo *= 0.25 + 1.8 * dot(linear, vec3(0.3333));
    albedo = mix(albedo, weave_color, weave_at(uv * weave_form.x) * weave_form.z) * tint;
    if (has_occlusion) albedo *= mix(1.0, texture(occlusion_map, uv).r, 0.8);

    vec3 n = normalize(normal);
    if (!gl_FrontFacing) n = -n;
    vec3 to_eye = normalize(-position);
    if (folds.x > 0.0) {       // bump mapping with a wavy height, so that cloth is not a painted body
        float wave = smooth_noise(uv * folds.y * vec2(1.0, 0.45)) + 0.5 * smooth_noise(uv * folds.y * 2.1 + 7.0);
        vec3 dx = dFdx(position), dy = dFdy(position);
        vec3 r1 = cross(dy, n), r2 = cross(n, dx);
        float det = dot(dx, r1);
        vec3 slope = sign(det) * (dFdx(wave) * r1 + dFdy(wave) * r2) * folds.x;
        n = normalize(abs(det) * n - slope);
        albedo *= 0.8 + 0.25 * wave;
    }
    float lamp = 1.0, sky = 1.0;
    if (shadowed) {
        vec3 lifted = position + n * shadow_form.z;
        lamp = uncovered(lamp_map, lamp_matrix, lifted, shadow_form.x, 4);
        sky = 1.0 - shadow_form.w * (1.0 - uncovered(sky_map, sky_matrix, lifted, shadow_form.y, 7));
    }
    vec3 w = light_axes * n;
    vec3 light = harmonics[0] + harmonics[1] * w.y + harmonics[2] * w.z + harmonics[3] * w.x
        + harmonics[4] * w.x * w.y + harmonics[5] * w.y * w.z + harmonics[6] * (3.0 * w.z * w.z - 1.0)
        + harmonics[7] * w.x * w.z + harmonics[8] * (w.x * w.x - w.y * w.y);
    light = max(light, vec3(0.02));
    vec3 direct = lamp_color * max(dot(n, lamp_direction), 0.0);
    if (catcher) {   // a ground that is seen only where it is darker than it would be without anybody
        float share = dot(light * sky + direct * lamp, vec3(1.0)) / dot(light + direct, vec3(1.0));
        pixel = vec4(vec3(0.0), 1.0 - pow(share, 1.0 / 2.2));
        return;
    }
    light = light * sky + direct * lamp;
    vec3 halfway = normalize(lamp_direction + to_eye);
    vec3 gleam = lamp * lamp_color * shine * pow(max(dot(n, halfway), 0.0), 24.0);
    float rim = pow(1.0 - max(dot(n, to_eye), 0.0), 4.0);
    vec3 radiance = albedo * light + gleam + shine * rim * harmonics[0];
    vec3 color = pow(clamp(radiance / (1.0 + 0.2 * radiance), 0.0, 1.0), vec3(1.0 / 2.2));
    float cover = alpha * opacity * min(1.0, 18.0 * inside);   // a beard ends softly
    pixel = vec4(color, translucent ? cover : 1.0);
}
"""


def open_context() -> tuple:
    """The module moderngl and a context of it that draws offscreen.

    Raises:
        ImportError: without moderngl.
        DrawingFailed: where OpenGL cannot be had through EGL.
    """
    try:
        import moderngl
    except ImportError as error:
        raise ImportError('rendering needs moderngl: pip install "dwpose-torch[synthetic]"') from error
    try:
        return moderngl, moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # glcontext raises nothing narrower
        cure = "install a GPU driver with EGL, or Mesa (Debian: libegl1 libgl1-mesa-dri)"
        raise DrawingFailed(f"no OpenGL through EGL ({error}): {cure}") from error


def check_opengl() -> None:
    """Raise what workers would: a pool starts a worker that fails again and again, and nobody hears of it."""
    open_context()[1].release()


class Renderer:
    """Draws items into a `size` (width, height) layer, averaging `supersample` squared samples per pixel.

    Raises:
        ImportError, DrawingFailed: those of `open_context`.
    """

    def __init__(self, size: tuple[int, int], supersample: int = 2):
        self.gl, self.context = open_context()
        self.size = size
        self.supersample = supersample
        self.full = (size[0] * supersample, size[1] * supersample)
        self.program = self.context.program(VERTEX_SHADER, FRAGMENT_SHADER)
        self.color = self.context.texture(self.full, 4)
        self.depth = self.context.depth_texture(self.full)
        self.target = self.context.framebuffer([self.color], self.depth)
        self.vertices = self.context.buffer(reserve=4 << 20)
        self.indices = self.context.buffer(reserve=2 << 20)
        layout = (self.vertices, "3f 3f 2f 1f", "in_position", "in_normal", "in_uv", "in_inside")
        self.array = self.context.vertex_array(self.program, [layout], self.indices)
        self.blank = self.context.texture((1, 1), 4, b"\xff\xff\xff\xff")
        self.textures: dict[Path, object] = {}
        self.shadows = ShadowMaps(self.context, self.vertices, self.indices)
        self.program["texture_map"].value, self.program["occlusion_map"].value = 0, 1
        self.program["lamp_map"].value, self.program["sky_map"].value = 2, 3

    def texture(self, path: Path | None):
        """The picture as an OpenGL texture; white for None. The last `HELD` pictures are kept, about 3 MB each."""
        if path is None:
            return self.blank
        if path not in self.textures:
            if len(self.textures) >= HELD:
                self.textures.pop(next(iter(self.textures))).release()
            image = imread(path, cv2.IMREAD_UNCHANGED)
            if image is None:
                raise ValueError(f"cannot read the texture {path}")
            code = {2: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}[
                image.shape[2] if image.ndim == 3 else 2
            ]
            image = np.ascontiguousarray(cv2.cvtColor(image, code)[::-1])  # v = 0 is the bottom row
            texture = self.context.texture((image.shape[1], image.shape[0]), 4, image.tobytes())
            texture.build_mipmaps()
            texture.filter = (self.gl.LINEAR_MIPMAP_LINEAR, self.gl.LINEAR)
            self.textures[path] = texture
        self.textures[path] = self.textures.pop(path)  # the one that was used longest ago comes first
        return self.textures[path]

    def render(self, items: list[Item], projection: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
        """Items -> RGBA (h, w, 4) uint8 with straight alpha, and distance along the view axis in dm, supersampled.

        Where nothing was drawn the distance is the far plane.
        """
        rgba, distance = self.render_samples(items, projection, light, self.size)
        # Empty pixels are (0, 0, 0, 0), so the plain average is the premultiplied colour.
        small = cv2.resize(rgba, self.size, interpolation=cv2.INTER_AREA).astype(np.float32)
        small[..., :3] *= 255.0 / np.maximum(small[..., 3:], 1.0)
        return np.clip(small + 0.5, 0, 255).astype(np.uint8), distance

    def render_samples(
        self,
        items: list[Item],
        projection: np.ndarray,
        light: Light,
        size: tuple[int, int],
        shadows: Shadows | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Like `render` for a picture of `size` (w, h), at most the renderer's, before averaging: RGBA is
        premultiplied, (h, w, 4) uint8 times `supersample` in both directions. `shadows` come from `cast_shadows`."""
        width, height = size[0] * self.supersample, size[1] * self.supersample
        self.target.use()
        self.target.viewport = (0, 0, width, height)
        self.target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        self.context.enable(self.gl.DEPTH_TEST)
        uniforms = {"projection": projection.T, "harmonics": light.harmonics, "light_axes": light.axes.T}
        uniforms |= {"lamp_direction": light.lamp_direction, "lamp_color": light.lamp_color}
        if shadows is not None:
            uniforms |= {"lamp_matrix": shadows.lamp.T, "sky_matrix": shadows.sky.T, "shadow_form": shadows.form}
        self.shadows.use()
        self.program["shadowed"].value = shadows is not None
        for name, value in uniforms.items():
            self.program[name].write(np.ascontiguousarray(value, "f4").tobytes())
        for item in items:
            self._draw(item)
        viewport = (0, 0, width, height)
        rgba = np.frombuffer(self.target.read(viewport, 4), np.uint8).reshape(height, width, 4)[::-1]
        buffer = self.target.read(viewport, 1, attachment=-1, dtype="f4")
        depth = np.frombuffer(buffer, np.float32).reshape(height, width)[::-1]
        return rgba, FAR * NEAR / (FAR - depth * (FAR - NEAR))

    def cast_shadows(self, items: list[Item], light: Light, up: np.ndarray, softness: float) -> Shadows:
        """Depth maps of the items as the lamp and as the sky (direction `up`, view space) see them."""
        return self.shadows.cast(items, light.lamp_direction, up, softness, self.load, self.texture)

    def load(self, item: Item) -> None:
        """Vertices and triangles of an item into the shared buffers."""
        inside = np.ones(len(item.positions)) if item.inside is None else item.inside
        rows = np.concatenate((item.positions, item.normals, item.uv, inside[:, None]), axis=1).astype("f4")
        self.vertices.write(rows.tobytes())
        self.indices.write(np.ascontiguousarray(item.index, "i4").tobytes())

    def _draw(self, item: Item) -> None:
        m, program = item.material, self.program
        self.load(item)
        self.texture(m.texture).use(0)
        self.texture(m.occlusion).use(1)
        program["texture_use"].value = 0 if m.texture is None else 2 if m.recolor else 1
        program["has_occlusion"].value = m.occlusion is not None
        for name in ("tint", "plain", "weave_color", "weave_form", "folds"):
            program[name].value = tuple(float(x) for x in getattr(m, name))
        for name in ("shine", "alpha_min", "opacity"):
            program[name].value = float(getattr(m, name))
        program["weave"].value, program["translucent"].value = m.weave, m.translucent
        program["catcher"].value = m.catcher
        if m.translucent:
            self.context.enable(self.gl.BLEND)
            blend = (self.gl.SRC_ALPHA, self.gl.ONE_MINUS_SRC_ALPHA, self.gl.ONE, self.gl.ONE_MINUS_SRC_ALPHA)
            self.context.blend_func = blend
        else:
            self.context.disable(self.gl.BLEND)
        self.array.render(vertices=item.index.size)
