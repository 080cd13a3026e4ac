"""Valid models of less usual form, each through the whole line; and what is refused, with the way out."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.plans import plan_for
from helpers.small_models import conv_net
from helpers.written_models import in_three, normal, save, through_the_line, written

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts

X = "(float[1,8] x)"
Y = "(float[1,8] y)"
W = {"w": normal(8, 8)}
PICTURE = "(float[1,3,8,8] x)"
CONV = {"w": normal(4, 3, 3, 3), "b": normal(4), "v": normal(4, 4, 1, 1, seed=1)}
TRUE = {"yes": np.array(True)}
ML = {"ai.onnx.ml": 3}
OURS = {"com.microsoft": 1}
INT64 = np.int64


def whole_numbers(*values):
    return np.array(values, INT64)


# ---------------------------------------------------------------- opsets, each with what only it and its neighbours have

OPSETS = {
    7: written(
        f"""{PICTURE} => (float[1,4] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  n = BatchNormalization<spatial=1>(c, s, b, b, s)  r = Relu(n)
            u = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(r)  k = Clip<min=0.0, max=1.0>(u)
            g = GlobalAveragePool(k)  f = Flatten(g)  y = Gemm<transB=1>(f, m, b)
        }}""",
        CONV | {"s": np.full(4, 0.5), "m": normal(4, 4)},
    ),
    8: written(
        f"""{PICTURE} => (float[1,4,4,4] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  p, unread = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
            e = Expand(b1, shape)  a = Add(p, e)  y = Conv(a, v)
        }}""",
        CONV | {"b1": normal(4, 1, 1), "shape": whole_numbers(1, 4, 4, 4)},
    ),
    9: written(
        f"""{PICTURE} => (float[1,4,16,16] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  d, unread = Dropout<ratio=0.5>(c)  r = Relu(d)
            u = Upsample<mode="nearest">(r, scales)  y = Conv(u, v)
        }}""",
        CONV | {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    10: written(
        f"""{PICTURE} => (float[1,4,8,8] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  z = Resize<mode="nearest">(c, scales)  s = Slice(z, from, to, axes)
            r = Pad<pads=[0,0,0,0,0,0,0,0]>(s)  y = Conv(r, v)
        }}""",
        CONV | {"scales": np.array([1, 1, 2, 2], np.float32), "from": whole_numbers(0, 0), "to": whole_numbers(8, 8),
                "axes": whole_numbers(2, 3)},
    ),
    11: written(
        f"""{PICTURE} => (float[1,4] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  k = Clip(c, low, high)  z = Resize<mode="linear">(k, roi, scales)
            q = Conv(z, v)  g = GlobalAveragePool(q)  y = Squeeze<axes=[2,3]>(g)
        }}""",
        CONV | {"low": np.float32(-0.5), "high": np.float32(0.5), "roi": np.zeros(0, np.float32),
                "scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    12: written(
        f"""{PICTURE} => (float[1,4] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  d = Dropout(c, ratio)  e = Celu(d)  q = Conv(e, v)
            m = ReduceMean<axes=[2,3], keepdims=0>(q)  y = Softmax(m)
        }}""",
        CONV | {"ratio": np.float32(0.5)},
    ),
    13: written(
        f"""{PICTURE} => (float[1,4] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  h = HardSigmoid(c)  q = Conv(h, v)
            m = ReduceSum<keepdims=0>(q, axes)  y = Softmax(m)
        }}""",
        CONV | {"axes": whole_numbers(2, 3)},
    ),
    onnx.defs.onnx_opset_version(): written(
        f"""{PICTURE} => (float[1,4,8,8] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  g = Gelu(c)  q = Conv(g, v)
            n = GroupNormalization<num_groups=2>(q, b, b)  y = Mish(n)
        }}""",
        CONV,
        ir=11,
    ),
}  # fmt: skip

# ---------------------------------------------------------------- inputs and outputs

ENDS = {
    "initializers that are inputs, IR 3": written(
        f"(float[1,8] x, float[8,8] w) => {Y} {{ a = MatMul(x, w)  b = Relu(a)  y = Neg(b) }}", W, opset=9, ir=3,
        feed={"x": normal(1, 8)}),
    "initializers that are no inputs, IR 3": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  b = Relu(a)  y = Neg(b) }}", W, opset=9, ir=3),
    "an input that nothing reads": written(
        f"(float[1,8] x, int64[1,3] u) => {Y} {{ a = MatMul(x, w)  b = Relu(a)  y = Neg(b) }}", W),
    "an output that is an input": written(
        f"{X} => (float[1,8] x, float[1,8] z) {{ y = Relu(x)  a = MatMul(y, w)  z = Neg(a) }}", W),
    "an output that rests on constants alone": written(
        f"{X} => (float[1,8] y, float[8,8] k) {{ a = MatMul(x, w)  y = Neg(a)  k = Transpose(w) }}", W),
    "an output that is a weight": written(
        f"{X} => (float[1,8] y, float[8,8] w) {{ a = MatMul(x, w)  y = Neg(a) }}", W),
    "an output listed twice": written(
        f"{X} => (float[1,8] y, float[1,8] y) {{ a = MatMul(x, w)  b = Relu(a)  y = Neg(b) }}", W),
    "an output that is read inside": written(
        f"{X} => (float[1,8] y, float[1,8] z) {{ y = MatMul(x, w)  a = Neg(y)  z = Exp(a) }}", W),
    "outputs that are copies": written(
        f"{X} => (float[1,8] y, float[1,8] z) {{ a = MatMul(x, w)  b = Relu(a)  y = Identity(b)  z = Identity(b) }}", W),
    "two inputs, one a whole number": written(
        f"(float[4,8] t, int64[1] at) => {Y} {{ g = Gather<axis=0>(t, at)  a = MatMul(g, w)  y = Tanh(a) }}", W,
        feed={"t": normal(4, 8), "at": whole_numbers(2)}),
    "an input without dimensions": written(
        f"(float[1,8] x, float s) => {Y} {{ a = MatMul(x, w)  b = Mul(a, s)  y = Tanh(b) }}", W,
        feed={"x": normal(1, 8), "s": np.array(0.7, np.float32)}),
    "a scalar that chooses a branch": written(
        f"""(float[1,8] x, int64 rate) => {Y} {{
            a = MatMul(x, w)  c = Equal(rate, high)
            i = If (c) <then_branch = t () => (float[1,8] p) {{ p = MatMul(a, w) }},
                        else_branch = e () => (float[1,8] q) {{ q = Neg(a) }}>  y = Tanh(i)
        }}""", W | {"high": np.array(16000)}, feed={"x": normal(1, 8), "rate": np.array(16000)}),
    "open shapes": written(
        "(float[N,8] x, float[N,T] t) => (float[N,O] y) { a = MatMul(x, w)  b = Concat<axis=1>(a, t)  y = Neg(b) }", W,
        shapes={"x": (1, 8), "t": (1, 5)}),
    "one symbol for two sizes": written(
        "(float[D,3,D,D] x) => (float[D,4,D,D] y) { c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  y = Conv(r, v) }", CONV,
        shapes={"x": (1, 3, 8, 12)}),
    "a bool output": written(
        f"{X} => (bool[1,8] y) {{ a = MatMul(x, w)  b = Neg(a)  y = Greater(b, z) }}", W | {"z": np.float32(0.1)}),
    "an empty output": written(
        f"{X} => (float[1,8] z, float[1,0] y) {{ a = MatMul(x, w)  e = Slice(a, n, n, one)  y = Neg(e)  z = Exp(a) }}",
        W | {"n": whole_numbers(8), "one": whole_numbers(1)}),
    "values that are no numbers": written(f"{X} => {Y} {{ a = MatMul(x, w)  b = Sqrt(a)  y = Relu(b) }}", W),
}  # fmt: skip

# ---------------------------------------------------------------- types and shapes inside

INSIDE = {
    "an empty tensor": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  e = Slice(a, n, n, one)  f = Neg(e)  y = Concat<axis=1>(f, a) }}",
        W | {"n": whole_numbers(8), "one": whole_numbers(1)}),
    "float16": written(
        "(float16[1,8] x) => (float16[1,8] y) { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = Neg(c) }",
        {"w": normal(8, 8).astype(np.float16)}),
    "float16 inside": written(
        f"{X} => {Y} {{ h = Cast<to=10>(x)  a = MatMul(h, w)  b = Relu(a)  f = Cast<to=1>(b)  y = Neg(f) }}",
        {"w": normal(8, 8).astype(np.float16)}),
    "float64": written(
        "(double[1,8] x) => (double[1,8] y) { k = Cast<to=11>(w)  a = MatMul(x, k)  b = Relu(a)  y = Neg(b) }", W),
    "bfloat16": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  b = Cast<to=16>(a)  c = Cast<to=1>(b)  d = MatMul(c, w)  y = Neg(d) }}", W),
    "sequences": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  s = SplitToSequence<axis=1>(a)  c = ConcatFromSequence<axis=1>(s)  d = MatMul(c, w)  y = Neg(d)
        }}""", W),
    "a sequence that is built and read at a place": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  n = Neg(a)  s = SequenceConstruct(a, n)  p = SequenceAt(s, one)  d = MatMul(p, w)  y = Neg(d)
        }}""", W | {"one": np.array(1)}),
    "an optional": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  o = Optional(a)  g = OptionalGetElement(o)  d = MatMul(g, w)  y = Neg(d) }}", W),
    "texts": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  s = Cast<to=8>(a)  b = Cast<to=1>(s)  d = MatMul(b, w)  y = Neg(d) }}", W),
    "NonZero": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  i = NonZero(a)  t = Transpose(i)  g = GatherND(a, t)  m = ReduceMax(g)  y = Sub(a, m)
        }}""", W),
    "NonZero at the output": written(
        f"{X} => (float[1,8] z, int64[2,n] y) {{ a = MatMul(x, w)  r = Relu(a)  y = NonZero(r)  z = Neg(r) }}", W),
    "boxes inside": written(
        """(float[1,6,4] boxes, float[1,1,6] scores) => (float[1,4] y) {
            b = MatMul(boxes, w)  s = Sigmoid(scores)  i = NonMaxSuppression(b, s, most, overlap, least)
            k = Gather<axis=1>(i, two)  p = Gather<axis=1>(b, k)  y = ReduceMax<axes=[1], keepdims=0>(p)
        }""", {"w": np.eye(4), "most": np.array(3), "overlap": np.float32(0.5), "least": np.float32(0.1), "two": np.array(2)}),
    "boxes at the output": written(
        """(float[1,6,4] boxes, float[1,1,6] scores) => (int64[n,3] y) {
            b = MatMul(boxes, w)  s = Sigmoid(scores)  y = NonMaxSuppression(b, s, most, overlap, least)
        }""", {"w": np.eye(4), "most": np.array(3), "overlap": np.float32(0.5), "least": np.float32(0.1)}),
    "shapes that a Range settles": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  s = Shape(a)  n = Gather(s, at)  r = Range(zero, n, step)
            f = Cast<to=1>(r)  b = Add(a, f)  y = Neg(b)
        }}""", W | {"at": np.array(1), "zero": np.array(0), "step": np.array(1)}),
    "shapes that arithmetic on floats settles": written(
        f"""{PICTURE} => (float[1,4,16,16] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w, b)  s = Shape(c)  h = Slice(s, two, four)  f = Cast<to=1>(h)  d = Mul(f, twice)
            e = Cast<to=7>(d)  n = Slice(s, nought, two)  z = Concat<axis=0>(n, e)
            u = Resize<mode="nearest">(c, , , z)  y = Conv(u, v)
        }}""", CONV | {"nought": whole_numbers(0), "two": whole_numbers(2), "four": whole_numbers(4), "twice": np.float32(2)}),
    "a branch on a constant": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)
            i = If (yes) <then_branch = t () => (float[1,8] p) {{ p = Neg(a) }},
                          else_branch = e () => (float[1,1,8] q) {{ q = Unsqueeze(a, nought) }}>
            y = Tanh(i)
        }}""", W | TRUE | {"nought": whole_numbers(0)}),
}  # fmt: skip

# ---------------------------------------------------------------- bodies and functions

BRANCH = "s = ReduceSum<keepdims=0>(a)  c = Greater(s, nought)"
BODIES = {
    "If with a weight and outer values": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  {BRANCH}
            i = If (c) <then_branch = t () => (float[1,8] p) {{ m = MatMul(a, u)  p = Relu(m) }},
                        else_branch = e () => (float[1,8] q) {{ q = Neg(a) }}>  y = Exp(i)
        }}""", W | {"u": normal(8, 8, seed=1), "nought": np.float32(0)}),
    "If in an If": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)  {BRANCH}
            i = If (c) <then_branch = t () => (float[1,8] p) {{
                            p = If (yes) <then_branch = tt () => (float[1,8] pp) {{ pp = MatMul(a, w) }},
                                          else_branch = te () => (float[1,8] pq) {{ pq = Identity(a) }}> }},
                        else_branch = e () => (float[1,8] q) {{
                            d = Not(c)
                            q = If (d) <then_branch = et () => (float[1,8] qp) {{ qp = Neg(a) }},
                                        else_branch = ee () => (float[1,8] qq) {{ qq = Identity(a) }}> }}>
            y = Exp(i)
        }}""", W | TRUE | {"nought": np.float32(0)}),
    "Loop that captures outer values": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)
            l = Loop (three, , a) <body = b (int64 i, bool go, float[1,8] v) => (bool more, float[1,8] next) {{
                m = MatMul(v, w)  next = Add(m, a)  more = Identity(go) }}>
            y = Neg(l)
        }}""", W | {"three": np.array(3)}),
    "Loop as long as data says": written(
        f"""{X} => {Y} {{
            a = MatMul(x, w)
            l = Loop (many, yes, a) <body = b (int64 i, bool go, float[1,8] v) => (bool more, float[1,8] next) {{
                next = Mul(v, half)  s = ReduceMax<keepdims=0>(next)  more = Greater(s, least) }}>
            y = Neg(l)
        }}""", W | TRUE | {"many": np.array(100), "half": np.float32(0.5), "least": np.float32(0.01)}),
    "Scan with weights": written(
        """(float[5,8] x) => (float[8] last, float[5,8] y) {
            a = MatMul(x, w)
            h, all = Scan (start, a) <num_scan_inputs = 1,
                body = b (float[8] state, float[8] one) => (float[8] new, float[8] out) {
                m = MatMul(state, w)  sum = Add(m, one)  new = Tanh(sum)  out = Identity(new) }>
            y = Neg(all)  last = Neg(h)
        }""", W | {"start": np.zeros(8)}),
    "a local function": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  b = own.Twice(a)  y = Exp(b) }}", W, domains={"own": 1},
        functions='<domain: "own", opset_import: ["" : 17]> Twice (p) => (q) { m = Relu(p)  q = Neg(m) }'),
    "a local function in another, with an attribute": written(
        f"{X} => {Y} {{ a = MatMul(x, w)  b = own.Outer<slope=0.3>(a)  c = MatMul(b, w)  y = Exp(c) }}", W, domains={"own": 1},
        functions="""<domain: "own", opset_import: ["" : 17]> Inner <slope> (p) => (q) { q = LeakyRelu<alpha: float = @slope>(p) }
            <domain: "own", opset_import: ["" : 17, "own" : 1]> Outer <slope> (p) => (q) {
                m = own.Inner<slope: float = @slope>(p)  q = Neg(m) }"""),
    "a recurrent layer": written(
        """(float[5,1,8] x) => (float[5,1,4] y, float[1,1,4] h) {
            o, h, unread = LSTM<hidden_size=4>(x, w, r)  y = Squeeze(o, one) }""",
        {"w": normal(1, 16, 8), "r": normal(1, 16, 4), "one": whole_numbers(1)}),
}  # fmt: skip

# ---------------------------------------------------------------- weights

GEMM = f"{X} => (float[1,4] y) {{ a = Relu(x)  g = Gemm(a, m, c)  y = Neg(g) }}"
BEHIND = {
    "Identity": (normal(4, 3, 3, 3), "k = Identity(raw)"),
    "Transpose": (normal(3, 4, 3, 3), "k = Transpose<perm=[1,0,2,3]>(raw)"),
    "Reshape": (normal(4, 27), "k = Reshape(raw, shape)"),
    "Cast": (normal(4, 3, 3, 3).astype(np.float16), "k = Cast<to=1>(raw)"),
    "Identity of a Transpose": (normal(3, 4, 3, 3), "t = Transpose<perm=[1,0,2,3]>(raw)  k = Identity(t)"),
}
WEIGHTS = {
    **{f"Gemm with C of {shape}": written(GEMM, {"m": normal(8, 4), "c": normal(*shape)})
       for shape in ((), (1,), (4,), (1, 4), (1, 1))},
    "Gemm without C": written(GEMM.replace(", c)", ")"), {"m": normal(8, 4)}),
    "Gemm with C of rows": written(
        GEMM.replace("[1,", "[3,"), {"m": normal(8, 4), "c": normal(3, 1)}),
    "Gemm with C of a matrix": written(GEMM.replace("[1,", "[3,"), {"m": normal(8, 4), "c": normal(3, 4)}),
    "Gemm scaled and transposed": written(
        "(float[8,3] x) => (float[3,4] y) { a = Relu(x)  y = Gemm<alpha=0.5, beta=2.0, transA=1, transB=1>(a, m, c) }",
        {"m": normal(4, 8), "c": normal(4)}),
    **{f"behind {what}": written(
        f"{PICTURE} => (float[1,4,8,8] y) {{ {made}  c = Conv<pads=[1,1,1,1]>(x, k, b)  r = Relu(c)  y = Conv(r, v) }}",
        {"raw": raw, "b": normal(4), "v": normal(4, 4, 1, 1), "shape": whole_numbers(4, 3, 3, 3)})
       for what, (raw, made) in BEHIND.items()},
    "shared by two layers": written(f"{X} => {Y} {{ a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = Neg(c) }}", W),
}  # fmt: skip

# ---------------------------------------------------------------- other domains and int8

QUANTITIES = {"s": np.float32(0.02), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0),
              "wq": (100 * normal(4, 3, 3, 3)).clip(-127, 127).astype(np.int8)}  # fmt: skip
TREE = """label, p = ai.onnx.ml.TreeEnsembleClassifier<classlabels_int64s=[0,1], nodes_treeids=[0,0,0], nodes_nodeids=[0,1,2],
    nodes_featureids=[2,0,0], nodes_modes=["BRANCH_LEQ","LEAF","LEAF"], nodes_values=[0.1,0.0,0.0],
    nodes_truenodeids=[1,0,0], nodes_falsenodeids=[2,0,0], nodes_missing_value_tracks_true=[0,0,0],
    class_treeids=[0,0,0,0], class_nodeids=[1,1,2,2], class_ids=[0,1,0,1], class_weights=[0.8,0.2,0.3,0.7]>(n)"""
DOMAINS = {
    "FusedConv": written(
        f"""{PICTURE} => (float[1,4,8,8] y) {{
            c = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Relu">(x, w, b)  q = Conv(c, v)  y = Neg(q)
        }}""", CONV, domains=OURS),
    "BiasGelu and FusedMatMul": written(
        f"""{X} => {Y} {{ a = MatMul(x, w)  g = com.microsoft.BiasGelu(a, b)
            m = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(g, w)  y = Neg(m) }}""", W | {"b": normal(8)}, domains=OURS),
    "SkipLayerNormalization": written(
        """(float[1,3,8] x) => (float[1,3,8] y) {
            a = MatMul(x, w)  n = com.microsoft.SkipLayerNormalization(a, x, b, b)  y = Neg(n)
        }""", W | {"b": normal(8)}, domains=OURS),
    "int8 as QOperator": written(
        f"""{PICTURE} => (float[1,4,8,8] y) {{
            q = QuantizeLinear(x, s, z)  c = QLinearConv<pads=[1,1,1,1]>(q, s, z, wq, ws, wz, s, z)
            l = com.microsoft.QLinearLeakyRelu<alpha=0.1>(c, s, z, s, z)  a = com.microsoft.QLinearAdd(c, s, z, l, s, z, s, z)
            y = DequantizeLinear(a, s, z) }}""", QUANTITIES, domains=OURS),
    "int8 as QDQ": written(
        f"""{PICTURE} => (float[1,4,8,8] y) {{
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  k = DequantizeLinear(wq, ws, wz)
            c = Conv<pads=[1,1,1,1]>(d, k)  r = Relu(c)  rq = QuantizeLinear(r, s, z)  rd = DequantizeLinear(rq, s, z)
            y = Conv(rd, v) }}""", QUANTITIES | {"v": normal(4, 4, 1, 1)}),
    "int8 with ranges of each inference": written(
        f"""{X} => {Y} {{ q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, wq, z, wz)  f = Cast<to=1>(i)
            t = Mul(s, ws)  m = Mul(f, t)  y = Neg(m) }}""",
        {"wq": (100 * normal(8, 8)).astype(np.int8), "wz": np.int8(0), "ws": np.float32(0.01)}),
    "trees without ZipMap": written(
        f"""(float[3,4] x) => (int64[3] label, float[3,2] p) {{
            n = ai.onnx.ml.Scaler<offset=[0.1, 0.1, 0.1, 0.1], scale=[1.0, 1.0, 1.0, 1.0]>(x)
            {TREE}
        }}""", domains=ML),
    "a normaliser and a linear classifier": written(
        """(float[3,4] x) => (int64[3] label, float[3,2] p) {
            n = ai.onnx.ml.Normalizer<norm="L2">(x)
            label, p = ai.onnx.ml.LinearClassifier<classlabels_ints=[0,1], coefficients=[0.1,0.2,-0.3,0.4,-0.1,-0.2,0.3,-0.4],
                intercepts=[0.1,-0.1], multi_class=0, post_transform="SOFTMAX">(n)
        }""", domains=ML),
}  # fmt: skip

MODELS = {f"opset {version}": replace(one, opset=version) for version, one in OPSETS.items()}
MODELS |= ENDS | INSIDE | BODIES | WEIGHTS | DOMAINS
ON_A_TESTBED = (
    "opset 9", "an input that nothing reads", "an input without dimensions", "a scalar that chooses a branch", "sequences",
    "boxes at the output", "int8 as QOperator", "an output that rests on constants alone",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Times need not be right here."""
    monkeypatch.setattr("dnnsplit.profiling.splits.PAUSE_S", 0.0)


@pytest.mark.parametrize("what", MODELS)
def test_it_goes_through_the_whole_line(what, tmp_path):
    one = MODELS[what]
    through_the_line(save(one.proto(), tmp_path), tmp_path, one.feed, one.shapes, what in ON_A_TESTBED)


# ---------------------------------------------------------------- what text cannot say


@pytest.mark.parametrize("nodes", ["unnamed", "named like tensors"])
@pytest.mark.parametrize(
    "names",
    [
        {"x": "in put/0:0", "a": "a b", "b": "ä'\"", "c": "../c", "y": "out/../y"},
        {"x": "x", "a": "block", "b": "block/output", "c": "block/output/int8", "y": "part00"},
        {"x": "0", "a": "1", "b": "2", "c": "3", "y": "4"},
    ],
)
def test_names_of_any_kind(names, nodes, tmp_path):
    body = "a = Conv<pads=[1,1,1,1]>(x, w, bias)  b = Relu(a)  c = Conv(b, v)  y = Relu(c)"
    weights = {"w": CONV["w"], "bias": CONV["b"], "v": CONV["v"]}
    proto = written(f"{PICTURE} => (float[1,4,8,8] y) {{ {body} }}", weights).proto()
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names[value.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = node.output[0] if nodes == "named like tensors" else ""
    through_the_line(save(proto, tmp_path, "my model v1.0 (final) ü"), tmp_path)


def test_weights_that_are_sparse(tmp_path):
    proto = written(f"{X} => {Y} {{ a = MatMul(x, w)  b = Mul(a, t)  y = Neg(b) }}", W).proto()
    values = onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "t")
    places = onnx.numpy_helper.from_array(whole_numbers(0, 3), "t/places")
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=places, dims=[8]))
    through_the_line(save(proto, tmp_path), tmp_path)


def test_weights_that_are_constant_nodes(tmp_path):
    proto = written(
        f"{PICTURE} => (float[1,4,8,8] y) {{ c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  y = Conv(r, v) }}", CONV
    ).proto()
    made = [onnx.helper.make_node("Constant", [], [weight.name], value=weight) for weight in proto.graph.initializer]
    nodes = [*made, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    graph = through_the_line(save(proto, tmp_path), tmp_path)
    assert len(graph.quantizable()) == 2


TRANSFORMER = written(
    """(float[1,3,8] x) => (float[1,3,8] y) {
        l = LayerNormalization(x, b, b)  k = MatMul(l, w)  a = Add(k, b)  r = Div(a, root)  e = Erf(r)  p = Add(e, one)
        m = Mul(a, p)  g = Mul(m, half)  o = MatMul(g, w)  s = Add(o, x)  y = LayerNormalization(s, b, b)
    }""", W | {"b": normal(8), "root": np.sqrt(2), "one": np.float32(1), "half": np.float32(0.5)})  # fmt: skip


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("what", ["convolutions", "a transformer"])
def test_files_that_onnx_runtime_optimized(what, level, tmp_path):
    path = conv_net(tmp_path / "given.onnx") if what == "convolutions" else save(TRANSFORMER.proto(), tmp_path, "given")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert any(node.domain == "com.microsoft" for node in optimized.graph.node) == (level == "EXTENDED")
    through_the_line(tmp_path / "optimized.onnx", tmp_path)


def test_random_numbers_cannot_be_checked(tmp_path):
    one = written(f"{X} => {Y} {{ a = MatMul(x, w)  r = RandomNormalLike(a)  b = Add(a, r)  y = Neg(b) }}", W)
    graph = ds.load(save(one.proto(), tmp_path))
    plan = plan_for(graph, in_three(graph))
    with pytest.raises(ds.DeployError, match=r"RandomNormalLike 'r' draws random numbers .*check=False"):
        ds.cut(graph, plan, tmp_path / "checked")
    found = run_parts(ds.cut(graph, plan, tmp_path / "parts", check=False), {"x": normal(1, 8)})
    assert found["y"].shape == (1, 8)


# ---------------------------------------------------------------- what load tells


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("an input that nothing reads", ["'u'"]),
        ("one symbol for two sizes", ["'D'"]),
        ("boxes at the output", ["NonMaxSuppression"]),
        ("sequences", ["SplitToSequence"]),
        ("opset 9", ["opset", "9"]),
    ],
)
def test_what_is_odd_is_told(what, words, tmp_path):
    one = MODELS[what]
    notes = ds.load(save(one.proto(), tmp_path), shapes=one.shapes).notes
    assert any(all(word in note for word in words) for note in notes), notes


def test_all_that_touches_an_open_tensor_is_one_layer(tmp_path):
    graph = ds.load(save(MODELS["sequences"].proto(), tmp_path))
    layers = {node: layer.name for layer in graph.layers for node in layer.nodes}
    held = {layers[name] for name, node in graph.model.nodes.items() if "Sequence" in node.op_type}
    assert len(held) == 1
    assert len(graph.layers) > 1
    assert set(graph.model.open) >= {"s"}


def test_weights_behind_constant_nodes_may_run_in_int8(tmp_path):
    for what in BEHIND:
        assert len(ds.load(save(MODELS[f"behind {what}"].proto(), tmp_path)).quantizable()) == 2, what


def test_weights_in_float16_may_not(tmp_path):
    assert ds.load(save(MODELS["float16"].proto(), tmp_path)).quantizable() == ()


# ---------------------------------------------------------------- what is refused, and what to do then

REFUSED = {
    "open shapes": (written("(float[N,8] x) => (float[N,8] y) { a = MatMul(x, w)  y = Neg(a) }", W), ["'x'", "shapes="]),
    "maps, of a ZipMap": (
        written(f"""(float[3,4] x) => (int64[3] label, seq(map(int64, float)) m) {{
            n = Relu(x)  {TREE}  m = ai.onnx.ml.ZipMap<classlabels_int64s=[0,1]>(p)
        }}""", domains=ML), ["'m'", "zipmap", "False"]),
    "texts as input": (
        written("""(string[1,2] t) => (float[1,2] y) {
            l = ai.onnx.ml.LabelEncoder<keys_strings=["a", "b"], values_floats=[1.0, 2.0]>(t)  y = Neg(l)
        }""", domains=ML), ["'t'", "text"]),
    "a sequence as input": (
        written("(seq(float[1,8]) s) => (float[1,8] y) { a = SequenceAt(s, none)  y = Neg(a) }", {"none": np.array(0)}),
        ["'s'", "sequence"]),
    "an operator that nobody knows": (
        written(f"{X} => {Y} {{ a = MatMul(x, w)  y = own.Magic(a) }}", W, domains={"own": 1}), ["Magic", "own"]),
    "an opset that is not there yet": (
        written(f"{X} => {Y} {{ a = MatMul(x, w)  y = Neg(a) }}", W, opset=99), ["99", "opset"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_a_way_out(what, tmp_path):
    one, words = REFUSED[what]
    with pytest.raises(ds.ModelError) as error:
        ds.load(save(one.proto(), tmp_path))
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "Error]" not in text, text
    assert "make_dynamic_shape_fixed" not in text, text


def test_the_way_out_of_open_shapes_is_one(tmp_path):
    path = save(REFUSED["open shapes"][0].proto(), tmp_path)
    through_the_line(path, tmp_path, shapes={"x": (2, 8)})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"y": (1, 8)}, ["'y'", "'x'"]),
        ({"x": (1, 8, 1)}, ["'x'", "(1, 8, 1)"]),
        ({"x": (1, 9)}, ["'x'", "9", "8"]),
        ({"x": (-1, 8)}, ["'x'", "-1"]),
    ],
)
def test_shapes_that_the_model_cannot_have_are_refused(shapes, words, tmp_path):
    with pytest.raises(ds.ModelError) as error:
        ds.load(save(REFUSED["open shapes"][0].proto(), tmp_path), shapes=shapes)
    assert all(word in str(error.value) for word in words), str(error.value)
