"""Eight float32 numbers as one value inside numba code, so that short loops use vector registers.

Numba leaves vectors to its compiler, which handles long loops well and loops of seven pixels not at
all. Here `Lanes` is a type of its own: arithmetic and comparison work as on numbers, a plain number
spreads over all lanes, `load` and `store` move eight neighbours of a one-dimensional array (no
bounds are checked, so arrays need WIDTH - 1 entries of slack), `where` chooses, `total` adds up.
The compiler turns the vectors into whatever the processor has.
"""
# Intrinsics take a first argument that callers do not give.
# pyright: reportCallIssue=false

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 8


class Lanes(types.Type):
    """Eight float32 numbers, or eight truth values."""

    def __init__(self, is_mask: bool) -> None:
        self.is_mask = is_mask
        super().__init__(name="lanes_mask" if is_mask else "lanes")


LANES = Lanes(is_mask=False)
MASK = Lanes(is_mask=True)
NUMBERS = ir.VectorType(ir.FloatType(), WIDTH)
TRUTHS = ir.VectorType(ir.IntType(1), WIDTH)
FAST = ("fast",)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, TRUTHS if fe_type.is_mask else NUMBERS)


def _is_lanes(value) -> bool:
    return isinstance(value, Lanes) and not value.is_mask


def _is_number(value) -> bool:
    return isinstance(value, types.Number)


def _spread(context, builder, kind, value):
    """A value of either kind as a vector of numbers."""
    if isinstance(kind, Lanes):
        return value
    single = context.cast(builder, value, kind, types.float32)
    first = builder.insert_element(
        ir.Constant(NUMBERS, ir.Undefined), single, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, ir.Constant(NUMBERS, ir.Undefined), zeros)


def _binary(build, result):
    """An intrinsic of two operands, of which at least one is lanes."""

    @intrinsic
    def combine(typingctx, a, b):
        def codegen(context, builder, signature, arguments):
            left, right = (
                _spread(context, builder, kind, value)
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            return build(builder, left, right)

        return result(a, b), codegen

    return combine


def _overload_binary(function, build, result) -> None:
    combine = _binary(build, result)

    @overload(function, inline="always")
    def implementation(a, b):
        fits = (_is_lanes(a) and (_is_lanes(b) or _is_number(b))) or (
            _is_number(a) and _is_lanes(b)
        )
        return (lambda a, b: combine(a, b)) if fits else None  # noqa: PLW0108  numba wants it


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _overload_binary(
        _function,
        lambda builder, a, b, name=_name: getattr(builder, name)(a, b, flags=FAST),
        LANES,
    )

for _function, _sign in ((operator.gt, ">"), (operator.lt, "<")):
    _overload_binary(
        _function,
        lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b),
        MASK,
    )


def _smaller(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


minimum = _binary(_smaller, LANES)
maximum = _binary(_larger, LANES)


@intrinsic
def both(typingctx, a, b):
    """Where two masks hold."""

    def codegen(context, builder, signature, arguments):
        return builder.and_(*arguments)

    return MASK(a, b), codegen


@intrinsic
def where(typingctx, mask, a, b):
    """a where the mask holds, else b."""

    def codegen(context, builder, signature, arguments):
        chosen, *values = arguments
        left, right = (
            _spread(context, builder, kind, value)
            for kind, value in zip(signature.args[1:], values, strict=True)
        )
        return builder.select(chosen, left, right)

    return LANES(mask, a, b), codegen


@intrinsic
def spread(typingctx, value):
    """One number in all lanes."""

    def codegen(context, builder, signature, arguments):
        return _spread(context, builder, signature.args[0], arguments[0])

    return LANES(value), codegen


@intrinsic
def ramp(typingctx):
    """0, 1, … 7."""

    def codegen(context, builder, signature, arguments):
        return ir.Constant(NUMBERS, [float(k) for k in range(WIDTH)])

    return LANES(), codegen


@intrinsic
def total(typingctx, value):
    """Sum over the lanes."""

    def codegen(context, builder, signature, arguments):
        parts = [
            builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), k))
            for k in range(WIDTH)
        ]
        while len(parts) > 1:
            parts = [
                builder.fadd(parts[k], parts[k + 1], flags=FAST) for k in range(0, len(parts), 2)
            ]
        return parts[0]

    return types.float32(value), codegen


def _pointer(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(cgutils.gep(builder, data, index), NUMBERS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """array[index : index + 8] of a contiguous float32 array."""

    def codegen(context, builder, signature, arguments):
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        return builder.load(
            _pointer(context, builder, signature.args[0], arguments[0], place), align=4
        )

    return LANES(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + 8] = value."""

    def codegen(context, builder, signature, arguments):
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], place)
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen
