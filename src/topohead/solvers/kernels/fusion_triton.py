"""`kernels.fusion` on CUDA tensors: what every view shows at every texel.

A texture is divided into cells of 64×64 texels. A first pass finds out which views see anything of
a cell; all later passes go through those views alone.

`cameras` float32 [C 40] holds the 22 numbers of `kernels.fusion`, then width and height of the
picture (22, 23), fx, fy, cx, cy and skew of the picture as stored (24–28), the squared radius at
which its lens folds (29), four factors of the numerator and three of the denominator of the radial
distortion (30–36), and its tangential factors p1, p2 (37, 38).
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

import os

import triton
import triton.language as tl

CAMERA = tl.constexpr(40)
CELL = tl.constexpr(64)
"""Texels on a side of a cell; a whole number of coarsest texels of the blend's pyramids."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIDE = 64 if INTERPRETED else 16
"""Texels on a side of what one program works on; a cell under the interpreter, where programs run
one after another and a large one costs little more than a small one."""
BLOCK = tl.constexpr(SIDE)


@triton.jit
def load_three(rows, index, live):
    """Three neighbouring numbers of [N 3] each."""
    place = rows + 3 * index
    return tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0), tl.load(place + 2, live, 0.0)


@triton.jit
def corner_weights(corners, t, live, x, y):
    """Barycentrics of texel positions in their triangles; thirds where a triangle has no area."""
    place = corners + 6 * t
    ax, ay = tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0)
    bx, by = tl.load(place + 2, live, 0.0), tl.load(place + 3, live, 0.0)
    cx, cy = tl.load(place + 4, live, 0.0), tl.load(place + 5, live, 0.0)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    flat = area == 0.0
    safe = tl.where(flat, 1.0, area)
    wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / safe
    wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / safe
    wb, wc = tl.where(flat, 1.0 / 3.0, wb), tl.where(flat, 1.0 / 3.0, wc)
    return 1.0 - wb - wc, wb, wc


@triton.jit
def _surface_texels(t, live, x, y, corners, triangles, vertices, normals):
    """Points and unit normals of texels."""
    wa, wb, wc = corner_weights(corners, t, live, x, y)
    a, b, c = load_three(triangles, t, live)
    a, b, c = a.to(tl.int32), b.to(tl.int32), c.to(tl.int32)
    ax, ay, az = load_three(vertices, a, live)
    bx, by, bz = load_three(vertices, b, live)
    cx, cy, cz = load_three(vertices, c, live)
    px, py, pz = (
        wa * ax + wb * bx + wc * cx,
        wa * ay + wb * by + wc * cy,
        wa * az + wb * bz + wc * cz,
    )
    ax, ay, az = load_three(normals, a, live)
    bx, by, bz = load_three(normals, b, live)
    cx, cy, cz = load_three(normals, c, live)
    nx, ny, nz = (
        wa * ax + wb * bx + wc * cx,
        wa * ay + wb * by + wc * cy,
        wa * az + wb * bz + wc * cz,
    )
    scale = 1.0 / tl.sqrt(nx * nx + ny * ny + nz * nz + 1e-20)
    return px, py, pz, nx * scale, ny * scale, nz * scale


@triton.jit
def _visible_weight(
    camera, depth, part_map, trust, width, height, stride,
    live, px, py, pz, nx, ny, nz, part, minimum_cosine, tolerance,
):  # fmt: skip
    """How well a view sees surface points, and where in its camera's frame they lie."""
    vx = tl.load(camera + 18) - px
    vy = tl.load(camera + 19) - py
    vz = tl.load(camera + 20) - pz
    distance = tl.sqrt(vx * vx + vy * vy + vz * vz) + 1e-20
    cosine = (vx * nx + vy * ny + vz * nz) / distance
    x = tl.load(camera) * px + tl.load(camera + 1) * py + tl.load(camera + 2) * pz
    y = tl.load(camera + 3) * px + tl.load(camera + 4) * py + tl.load(camera + 5) * pz
    z = tl.load(camera + 6) * px + tl.load(camera + 7) * py + tl.load(camera + 8) * pz
    x, y, z = x + tl.load(camera + 9), y + tl.load(camera + 10), z + tl.load(camera + 11)
    seen = live & (cosine >= minimum_cosine) & (z > 0.0)
    cosine, z = tl.where(seen, cosine, 1.0), tl.where(seen, z, 1.0)
    focal = tl.load(camera + 12)
    to_small = tl.load(camera + 16)
    u = (focal * x / z + tl.load(camera + 14)) * to_small
    v = (tl.load(camera + 13) * y / z + tl.load(camera + 15)) * tl.load(camera + 17)
    seen = seen & (u >= 0.5) & (v >= 0.5) & (u < width - 0.5) & (v < height - 0.5)
    u, v = tl.where(seen, u, 1.0), tl.where(seen, v, 1.0)
    column, row = tl.floor(u - 0.5), tl.floor(v - 0.5)
    dx, dy = u - 0.5 - column, v - 0.5 - row
    corner = trust + row.to(tl.int32) * stride + column.to(tl.int32)
    upper = tl.load(corner, seen, 0.0) * (1.0 - dx) + tl.load(corner + 1, seen, 0.0) * dx
    corner += stride
    lower = tl.load(corner, seen, 0.0) * (1.0 - dx) + tl.load(corner + 1, seen, 0.0) * dx
    trusted = upper * (1.0 - dy) + lower * dy
    nearest = v.to(tl.int32) * stride + u.to(tl.int32)
    seen = seen & (trusted > 0.0)
    seen = seen & (tl.load(part_map + nearest, seen, 255).to(tl.int32) == part)
    # across one pixel of the depth map a slanted surface changes its depth by tan × pixel size
    slope = tl.sqrt(tl.maximum(1.0 - cosine * cosine, 0.0)) / cosine
    limit = tl.load(depth + nearest, seen, 0.0) + tolerance + z / (focal * to_small) * slope
    seen = seen & (z <= limit)
    power = cosine * cosine
    weight = power * power * trusted * tl.load(camera + 21) / (z * z)
    return tl.where(seen, weight, 0.0), x, y, z


@triton.jit
def _through_lens(camera, x, y, seen):
    """Pixel positions in the picture as stored of points of the normalised image plane."""
    square = x * x + y * y
    above = tl.load(camera + 32) + square * tl.load(camera + 33)
    above = square * (tl.load(camera + 30) + square * (tl.load(camera + 31) + square * above))
    below = tl.load(camera + 35) + square * tl.load(camera + 36)
    below = square * (tl.load(camera + 34) + square * below)
    radial = (1.0 + above) / (1.0 + below)
    p1, p2 = tl.load(camera + 37), tl.load(camera + 38)
    along = radial + 2.0 * (p2 * x + p1 * y)
    bent_x, bent_y = x * along + p2 * square, y * along + p1 * square
    u = tl.load(camera + 24) * bent_x + tl.load(camera + 28) * bent_y + tl.load(camera + 26)
    v = tl.load(camera + 25) * bent_y + tl.load(camera + 27)
    return u, v, seen & (square < tl.load(camera + 29))


@triton.jit
def _sharp_tap(t, i: tl.constexpr):
    """Cubic convolution's weight (Keys 1981, a = −½) of the neighbour i ∈ −1 … 2 at t ∈ [0, 1)."""
    if i == -1:
        return 0.5 * t * (t * (2.0 - t) - 1.0)
    if i == 0:
        return 0.5 * (t * t * (3.0 * t - 5.0) + 2.0)
    if i == 1:
        return 0.5 * t * (t * (4.0 - 3.0 * t) + 1.0)
    if i == 2:
        return 0.5 * t * t * (t - 1.0)
    return 0.0 * t


@triton.jit
def _sharp_weight(t, share, i: tl.constexpr):
    """One of the six weights of `kernels.fusion`'s sharpened cubic, i ∈ −2 … 3."""
    beside = _sharp_tap(t, i - 1) + _sharp_tap(t, i + 1)
    return (1.0 + 2.0 * share) * _sharp_tap(t, i) - share * beside


@triton.jit
def unpack(word, WIDE: tl.constexpr):
    """Red, green, blue in [0, 1] of pixels packed 16 bits a channel (int64) or 8 (int32)."""
    if WIDE:
        red, green, blue = word & 0xFFFF, (word >> 16) & 0xFFFF, (word >> 32) & 0xFFFF
        scale = 1.0 / 65535.0
    else:
        red, green, blue = word & 0xFF, (word >> 8) & 0xFF, (word >> 16) & 0xFF
        scale = 1.0 / 255.0
    return red.to(tl.float32) * scale, green.to(tl.float32) * scale, blue.to(tl.float32) * scale


@triton.jit
def _sharp_sample(pixels, width, row, column, dx, dy, share, seen, WIDE: tl.constexpr):
    """Samples at (dx, dy) ∈ [0, 1)² after the centres of (row, column)."""
    red = tl.zeros(dx.shape, tl.float32)
    green, blue = red, red
    for i in tl.static_range(-2, 4):
        place = pixels + (row + i) * width + column
        down = _sharp_weight(dy, share, i)
        for j in tl.static_range(-2, 4):
            r, g, b = unpack(tl.load(place + j, seen, 0), WIDE)
            weight = down * _sharp_weight(dx, share, j)
            red, green, blue = red + weight * r, green + weight * g, blue + weight * b
    return red, green, blue


@triton.jit
def _color(
    camera, correction, share, pixels, x, y, z, weight, WIDE: tl.constexpr, LENS: tl.constexpr
):
    """Corrected colours of points of the camera's frame; weight is lost near the border."""
    seen = weight > 0.0
    z = tl.where(seen, z, 1.0)
    u = tl.load(camera + 12) * x / z + tl.load(camera + 14)
    v = tl.load(camera + 13) * y / z + tl.load(camera + 15)
    dx, dy = u - tl.load(correction + 14), v - tl.load(correction + 15)
    square = (dx * dx + dy * dy) * tl.load(correction + 16)
    falloff = tl.load(correction + 12) + tl.load(correction + 13) * square
    gain = 1.0 + square * falloff
    if LENS:
        u, v, seen = _through_lens(camera, x / z, y / z, seen)
    width, height = tl.load(camera + 22).to(tl.int32), tl.load(camera + 23).to(tl.int32)
    seen = seen & (u >= 2.5) & (v >= 2.5) & (u < width - 2.5) & (v < height - 2.5)
    u, v = tl.where(seen, u - 0.5, 2.0), tl.where(seen, v - 0.5, 2.0)
    column, row = tl.floor(u), tl.floor(v)
    red, green, blue = _sharp_sample(
        pixels, width, row.to(tl.int32), column.to(tl.int32), u - column, v - row, share, seen, WIDE
    )
    r = tl.load(correction) * red + tl.load(correction + 1) * green + tl.load(correction + 2) * blue
    g = tl.load(correction + 4) * red + tl.load(correction + 5) * green
    b = tl.load(correction + 8) * red + tl.load(correction + 9) * green
    g, b = g + tl.load(correction + 6) * blue, b + tl.load(correction + 10) * blue
    r, g = gain * r + tl.load(correction + 3), gain * g + tl.load(correction + 7)
    return r, g, gain * b + tl.load(correction + 11), tl.where(seen, weight, 0.0)


@triton.jit
def mark_cells(
    triangle_map, size, corners, triangles, vertices, normals, parts,
    cameras, depth, part_map, trust, sizes, stride, plane, minimum_cosine, tolerance,
    flags, views,
):  # fmt: skip
    """Sets `flags` uint8 [cells cells C] where a view sees any texel of a cell.

    `depth`, `part_map`, `trust` are [C h w], `stride` = w and `plane` = h w; `sizes` int32 [C 2]
    is how much of them (width, height) a view fills.
    """
    index = tl.arange(0, BLOCK * BLOCK)
    top, left = tl.program_id(1) * BLOCK, tl.program_id(0) * BLOCK
    x, y = left + index % BLOCK, top + index // BLOCK
    inside = (x < size) & (y < size)
    t = tl.load(triangle_map + y * size + x, inside, -1)
    live = t >= 0
    if tl.max(t) < 0:
        return
    px, py, pz, nx, ny, nz = _surface_texels(
        t, live, x + 0.5, y + 0.5, corners, triangles, vertices, normals
    )
    part = tl.load(parts + t, live, 255).to(tl.int32)
    cell = (top // CELL) * tl.cdiv(size, CELL) + left // CELL
    camera, flag = cameras, flags + cell * views
    for _view in range(views):
        weight, _x, _y, _z = _visible_weight(
            camera, depth, part_map, trust, tl.load(sizes), tl.load(sizes + 1), stride,
            live, px, py, pz, nx, ny, nz, part, minimum_cosine, tolerance,
        )  # fmt: skip
        if tl.max(weight) > 0.0:
            tl.store(flag, 1)
        camera, flag, sizes = camera + CAMERA, flag + 1, sizes + 2
        depth, part_map, trust = depth + plane, part_map + plane, trust + plane


@triton.jit
def gather_texels(
    triangle_map, size, corners, triangles, vertices, normals, parts,
    cameras, depth, part_map, trust, sizes, stride, plane, minimum_cosine, tolerance,
    corrections, share, pixels, starts, listed, number, views, top, left, side, colors, weights,
    WIDE: tl.constexpr, LENS: tl.constexpr,
):  # fmt: skip
    """Fills a window's `colors` [C 3 side side] and `weights` [C side side] where views see it.

    The window's first texel is (`top`, `left`), both multiples of the cell's size and maybe
    outside the texture; `listed` int32 [cells cells C] names the views of each of its cells,
    `number` int32 [cells cells] how many they are. `starts` int64 [C] is each picture's place in
    `pixels`. Weights of other texels stay as they are.
    """
    index = tl.arange(0, BLOCK * BLOCK)
    row, column = tl.program_id(1) * BLOCK, tl.program_id(0) * BLOCK
    cell = (row // CELL) * (side // CELL) + column // CELL
    count = tl.load(number + cell)
    if count == 0:
        return
    place = (row + index // BLOCK) * side + column + index % BLOCK
    x, y = left + column + index % BLOCK, top + row + index // BLOCK
    inside = (x >= 0) & (y >= 0) & (x < size) & (y < size)
    t = tl.load(triangle_map + y * size + x, inside, -1)
    live = t >= 0
    px, py, pz, nx, ny, nz = _surface_texels(
        t, live, x + 0.5, y + 0.5, corners, triangles, vertices, normals
    )
    part = tl.load(parts + t, live, 255).to(tl.int32)
    for k in range(count):
        view = tl.load(listed + cell * views + k)
        shift = view.to(tl.int64) * plane
        camera = cameras + view * CAMERA
        weight, cx, cy, cz = _visible_weight(
            camera, depth + shift, part_map + shift, trust + shift,
            tl.load(sizes + 2 * view), tl.load(sizes + 2 * view + 1), stride,
            live, px, py, pz, nx, ny, nz, part, minimum_cosine, tolerance,
        )  # fmt: skip
        if tl.max(weight) > 0.0:
            red, green, blue, weight = _color(
                camera, corrections + 18 * view, share, pixels + tl.load(starts + view),
                cx, cy, cz, weight, WIDE, LENS,
            )  # fmt: skip
            seen = weight > 0.0
            stack = side * side
            tl.store(weights + view.to(tl.int64) * stack + place, weight, seen)
            target = colors + view.to(tl.int64) * 3 * stack + place
            tl.store(target, red.to(tl.float16), seen)
            tl.store(target + stack, green.to(tl.float16), seen)
            tl.store(target + 2 * stack, blue.to(tl.float16), seen)
