//! Shorthands for building graphs. They panic where shapes do not fit, which is a mistake in the caller.

use super::attributes::{Attribute, Attributes};
use super::core::{Graph, Value};
use super::dim::Dim;
use super::tensor::{Constant, DType};

/// CUDA graph capture allows at most this many inputs of a Concat and outputs of a Split.
const WIDEST: usize = 32;

/// What stays the same from one of Adam's steps to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    pub betas: [f64; 2],
    pub epsilon: f32,
    /// Decay shrinks parameters (AdamW) instead of adding to gradients.
    pub decoupled: bool,
}

pub(super) fn attributes<const N: usize>(entries: [(&'static str, Attribute); N]) -> Attributes {
    entries.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

pub(super) fn ints(values: impl IntoIterator<Item = usize>) -> Attribute {
    Attribute::Ints(values.into_iter().map(|value| value as i64).collect())
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident = $name:literal),+ $(,)?) => {
        $($(#[$doc])* pub fn $method(&mut self, x: Value) -> Value { self.apply1($name, &[x], Attributes::new()) })+
    };
}

macro_rules! binary {
    ($($method:ident = $name:literal),+ $(,)?) => {
        $(pub fn $method(&mut self, a: Value, b: Value) -> Value { self.apply1($name, &[a, b], Attributes::new()) })+
    };
}

impl Graph {
    unary!(
        abs = "Abs",
        cos = "Cos",
        erf = "Erf",
        exp = "Exp",
        is_nan = "IsNaN",
        log = "Log",
        neg = "Neg",
        relu = "Relu",
        sigmoid = "Sigmoid",
        sign = "Sign",
        sin = "Sin",
        softplus = "Softplus",
        sqrt = "Sqrt",
        tanh = "Tanh",
    );
    binary!(
        add = "Add",
        sub = "Sub",
        mul = "Mul",
        div = "Div",
        max = "Max",
        min = "Min",
        matmul = "MatMul",
        greater = "Greater",
        less = "Less",
        equal = "Equal",
        and = "And",
        pow = "Pow",
        modulo = "Mod",
    );

    /// `a` or `b` by `condition`.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        self.apply1("Where", &[condition, a, b], Attributes::new())
    }

    pub fn to_f32(&mut self, x: Value) -> Value {
        self.cast(x, DType::F32)
    }

    pub fn leaky_relu(&mut self, x: Value, slope: f32) -> Value {
        self.apply1("LeakyRelu", &[x], attributes([("alpha", Attribute::Float(slope))]))
    }

    /// a' b' + c, with a' = a or its transpose.
    pub fn gemm(&mut self, a: Value, b: Value, c: Option<Value>, trans_a: bool, trans_b: bool) -> Value {
        let flag = |on: bool| Attribute::Int(i64::from(on));
        let inputs: Vec<_> = [a, b].into_iter().chain(c).collect();
        self.apply1("Gemm", &inputs, attributes([("transA", flag(trans_a)), ("transB", flag(trans_b))]))
    }

    /// x [.., in] times weight [out, in] transposed, plus bias [out].
    pub fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Value {
        let shape = self.shape(x).to_vec();
        let (last, leading) = shape.split_last().expect("a matrix");
        let out = self.shape(weight)[0];
        let flat = self.reshape(x, &[leading.iter().product(), *last]);
        let y = self.gemm(flat, weight, bias, false, true);
        let shape: Vec<_> = leading.iter().copied().chain([out]).collect();
        self.reshape(y, &shape)
    }

    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Value {
        if self.shape(x) == shape {
            return x;
        }
        let shape: Vec<_> = shape.iter().map(|dim| *dim as i64).collect();
        let shape = self.i64s(&shape);
        self.apply1("Reshape", &[x, shape], Attributes::new())
    }

    /// Axis `i` of the result is axis `order[i]` of `x`. Transposing what a transpose made takes one step, or none.
    pub fn transpose(&mut self, x: Value, order: &[usize]) -> Value {
        self.apply1("Transpose", &[x], attributes([("perm", ints(order.iter().copied()))]))
    }

    /// Rows [start, end) along `axis`.
    pub fn slice(&mut self, x: Value, axis: usize, start: usize, end: usize) -> Value {
        self.strided_slice(x, axis, start, end, 1)
    }

    /// Every `step`-th of [start, end) along `axis`.
    pub fn strided_slice(&mut self, x: Value, axis: usize, start: usize, end: usize, step: usize) -> Value {
        if start == 0 && end == self.shape(x)[axis] && step == 1 {
            return x;
        }
        let [start, end, axis, step] = [start, end, axis, step].map(|value| self.i64s(&[value as i64]));
        self.apply1("Slice", &[x, start, end, axis, step], Attributes::new())
    }

    /// Rows of `x` along `axis` at the positions `indices`, int64.
    pub fn gather(&mut self, x: Value, indices: Value, axis: usize) -> Value {
        self.apply1("Gather", &[x, indices], attributes([("axis", Attribute::Int(axis as i64))]))
    }

    /// Elements of `x` at the positions `indices` along `axis`, int64; both have as many axes.
    pub fn gather_elements(&mut self, x: Value, indices: Value, axis: usize) -> Value {
        self.apply1("GatherElements", &[x, indices], attributes([("axis", Attribute::Int(axis as i64))]))
    }

    /// Concatenates along `axis`; many values through a tree.
    pub fn concat(&mut self, parts: &[Value], axis: usize) -> Value {
        match parts {
            [one] => *one,
            _ if parts.len() <= WIDEST => {
                self.apply1("Concat", parts, attributes([("axis", Attribute::Int(axis as i64))]))
            }
            _ => {
                let width = parts.len().div_ceil(parts.len().div_ceil(WIDEST));
                let joined: Vec<_> = parts.chunks(width).map(|chunk| self.concat(chunk, axis)).collect();
                self.concat(&joined, axis)
            }
        }
    }

    /// Splits along `axis` into parts of these sizes; many through a tree.
    pub fn split(&mut self, x: Value, axis: usize, sizes: &[usize]) -> Vec<Value> {
        if sizes.len() == 1 {
            return vec![x];
        }
        if sizes.len() <= WIDEST {
            let sizes: Vec<_> = sizes.iter().map(|size| *size as i64).collect();
            let sizes = self.i64s(&sizes);
            return self.apply("Split", &[x, sizes], attributes([("axis", Attribute::Int(axis as i64))]));
        }
        let width = sizes.len().div_ceil(sizes.len().div_ceil(WIDEST));
        let groups: Vec<_> = sizes.chunks(width).map(|group| group.iter().sum()).collect();
        let parts = self.split(x, axis, &groups);
        let pairs = parts.into_iter().zip(sizes.chunks(width));
        pairs.flat_map(|(part, group)| self.split(part, axis, group)).collect()
    }

    pub fn reduce_sum(&mut self, x: Value, axes: &[usize], keep: bool) -> Value {
        self.reduce("ReduceSum", x, axes, keep)
    }

    pub fn reduce_mean(&mut self, x: Value, axes: &[usize], keep: bool) -> Value {
        self.reduce("ReduceMean", x, axes, keep)
    }

    pub fn reduce_max(&mut self, x: Value, axes: &[usize], keep: bool) -> Value {
        self.reduce("ReduceMax", x, axes, keep)
    }

    fn reduce(&mut self, name: &str, x: Value, axes: &[usize], keep: bool) -> Value {
        if axes.is_empty() {
            return x;
        }
        let axes: Vec<_> = axes.iter().map(|axis| *axis as i64).collect();
        let axes = self.i64s(&axes);
        self.apply1(name, &[x, axes], attributes([("keepdims", Attribute::Int(i64::from(keep)))]))
    }

    /// The sum over the rows of a matrix [rows, n]: a product with ones, which reads rows as they lie.
    pub fn sum_rows(&mut self, x: Value) -> Value {
        let [rows, n] = self.shape(x)[..] else { panic!("{} is no matrix", self.ty(x)) };
        let one = Constant::filled(self.dtype(x), [1, 1], 1.0);
        let one = self.constant(one);
        let ones = self.expand(one, &[1, rows]);
        let sum = self.matmul(ones, x);
        self.reshape(sum, &[n])
    }

    /// Sums of x [batch, channels, ..] over all axes but the channels; each example's own first, which keeps sums
    /// short and their rounding small.
    pub(super) fn channel_sums(&mut self, x: Value) -> Value {
        let spatial: Vec<_> = (2..self.shape(x).len()).collect();
        let own = self.reduce_sum(x, &spatial, false);
        self.reduce_sum(own, &[0], false)
    }

    /// The sum of all elements, as a scalar.
    pub fn sum_all(&mut self, x: Value) -> Value {
        let axes: Vec<_> = (0..self.shape(x).len()).collect();
        self.reduce_sum(x, &axes, false)
    }

    pub fn expand(&mut self, x: Value, shape: &[usize]) -> Value {
        if self.shape(x) == shape {
            return x;
        }
        let own = self.shape(x);
        let lead = shape.len().saturating_sub(own.len());
        // A batch that is not known yet is kept as it is, not named.
        let kept = |i: usize, dim: usize| i >= lead && own[i - lead] == dim && Dim::of(dim).is_batch();
        let shape: Vec<_> =
            shape.iter().enumerate().map(|(i, dim)| if kept(i, *dim) { 1 } else { *dim as i64 }).collect();
        let shape = self.i64s(&shape);
        self.apply1("Expand", &[x, shape], Attributes::new())
    }

    /// Zeros before and after along `axis`.
    pub fn pad(&mut self, x: Value, axis: usize, before: usize, after: usize) -> Value {
        if before == 0 && after == 0 {
            return x;
        }
        let rank = self.shape(x).len();
        let mut pads = vec![0; 2 * rank];
        (pads[axis], pads[rank + axis]) = (before as i64, after as i64);
        let pads = self.i64s(&pads);
        self.apply1("Pad", &[x, pads], Attributes::new())
    }

    /// Max pooling of windows side by side, without padding; what is left at the ends is dropped.
    pub fn max_pool(&mut self, x: Value, window: &[usize]) -> Value {
        let attributes =
            attributes([("kernel_shape", ints(window.iter().copied())), ("strides", ints(window.iter().copied()))]);
        self.apply1("MaxPool", &[x], attributes)
    }

    /// Every element `count` times along `axis`.
    pub fn repeat(&mut self, x: Value, axis: usize, count: usize) -> Value {
        let mut shape = self.shape(x).to_vec();
        let n = shape[axis];
        if axis + 1 == shape.len() && axis > 0 && n * n * count <= 1 << 12 {
            // Neighbours in memory: a product with zeros and ones is faster than copying them one by one.
            let matrix = (0..n * n * count).map(|i| f32::from(u8::from(i / (n * count) == i % (n * count) / count)));
            let matrix = self.f32([n, n * count], matrix.collect());
            return self.matmul(x, matrix);
        }
        let mut apart = shape.clone();
        apart.insert(axis + 1, 1);
        let apart = self.reshape(x, &apart);
        let mut wide = shape.clone();
        wide.insert(axis + 1, count);
        let wide = self.expand(apart, &wide);
        shape[axis] *= count;
        self.reshape(wide, &shape)
    }

    /// Puts `step` - 1 zeros between neighbours along an axis.
    pub(super) fn spread(&mut self, x: Value, along: usize, step: usize) -> Value {
        if step == 1 {
            return x;
        }
        let shape = self.shape(x).to_vec();
        let mut apart = shape.clone();
        apart.insert(along + 1, 1);
        let apart = self.reshape(x, &apart);
        let padded = self.pad(apart, along + 1, 0, step - 1);
        let mut joined = shape.clone();
        joined[along] *= step;
        let joined = self.reshape(padded, &joined);
        self.slice(joined, along, 0, (shape[along] - 1) * step + 1)
    }

    /// Frames of `length` rows of x [n, rows, width], each `advance` after the last: [n count, length width].
    pub(super) fn frames(&mut self, x: Value, advance: usize, length: usize, count: usize) -> Value {
        let int = |value: usize| Attribute::Int(value as i64);
        let attributes = attributes([("advance", int(advance)), ("length", int(length)), ("count", int(count))]);
        self.apply1("Frames", &[x], attributes)
    }

    /// Convolution with stride 1 of an input with zeros (before, after) along each spatial axis.
    pub fn conv_padded(&mut self, x: Value, weight: Value, bias: Value, pads: &[(usize, usize)]) -> Value {
        let kernel = self.shape(weight)[2..].to_vec();
        let (before, after): (Vec<_>, Vec<_>) = pads.iter().copied().unzip();
        let attributes = attributes([("kernel_shape", ints(kernel)), ("pads", ints(before.into_iter().chain(after)))]);
        self.apply1("Conv", &[x, weight, bias], attributes)
    }

    /// Convolution without padding: x [batch, in, spatial..], weight [out, in, kernel..], strides per spatial axis.
    pub fn conv(&mut self, x: Value, weight: Value, bias: Option<Value>, strides: &[usize]) -> Value {
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        let kernel = self.shape(weight)[2..].to_vec();
        let attributes = attributes([("kernel_shape", ints(kernel)), ("strides", ints(strides.iter().copied()))]);
        self.apply1("Conv", &inputs, attributes)
    }

    /// Adam's update: parameters, moments and gradient [n] to parameters and moments, with the step's rate, bias
    /// corrections (the second as its root) and decay.
    pub fn adam_update(&mut self, state: [Value; 4], step: [Value; 4], adam: &Adam) -> Vec<Value> {
        let attributes = attributes([
            ("keep1", Attribute::Float(adam.betas[0] as f32)),
            ("take1", Attribute::Float((1.0 - adam.betas[0]) as f32)),
            ("keep2", Attribute::Float(adam.betas[1] as f32)),
            ("take2", Attribute::Float((1.0 - adam.betas[1]) as f32)),
            ("epsilon", Attribute::Float(adam.epsilon)),
            ("decoupled", Attribute::Int(i64::from(adam.decoupled))),
        ]);
        self.apply("AdamUpdate", &[state, step].concat(), attributes)
    }

    /// For r [rows], a and b [columns], int64 in 0..p: `scale` where (a_j r_i + b_j) mod p is above `threshold`, else 0,
    /// as float32 [rows, columns]. p = 2^31 - 1.
    pub fn dropout_mask(&mut self, [r, a, b]: [Value; 3], p: i64, threshold: i64, scale: f32) -> Value {
        let attributes = attributes([
            ("modulus", Attribute::Int(p)),
            ("threshold", Attribute::Int(threshold)),
            ("scale", Attribute::Float(scale)),
        ]);
        self.apply1("DropoutMask", &[r, a, b], attributes)
    }

    /// keep x old + (1 - keep) x new.
    pub fn moving_average(&mut self, old: Value, new: Value, keep: f32) -> Value {
        let (kept, taken) = (self.scalar_like(old, keep), self.scalar_like(new, 1.0 - keep));
        let (old, new) = (self.mul(old, kept), self.mul(new, taken));
        self.add(old, new)
    }

    /// Zeros of the type of `like`.
    pub fn zeros(&mut self, like: Value, shape: &[usize]) -> Value {
        let zero = self.scalar_like(like, 0.0);
        self.expand(zero, shape)
    }

    /// Layer normalization over the last axis (epsilon 1e-5).
    pub fn layer_norm(&mut self, x: Value, scale: Value, bias: Value) -> Value {
        let attributes = attributes([("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(1e-5))]);
        self.apply("LayerNormalization", &[x, scale, bias], attributes)[0]
    }

    /// Batch normalization of x [batch, channels, ..] by the batch's own statistics (Ioffe and Szegedy 2015). Also
    /// gives their mean and their variance with the divisor n - 1, both [channels], for running statistics.
    pub fn batch_norm(&mut self, x: Value, scale: Value, bias: Value, epsilon: f32) -> (Value, Value, Value) {
        let attributes = attributes([("epsilon", Attribute::Float(epsilon))]);
        let outputs = self.apply("BatchNorm", &[x, scale, bias], attributes);
        let count = self.ty(x).elements() / self.shape(x)[1];
        let unbiased = self.scalar_like(outputs[2], count as f32 / (count.max(2) - 1) as f32);
        (outputs[0], outputs[1], self.mul(outputs[2], unbiased))
    }

    /// Batch normalization by given statistics [channels].
    pub fn fixed_norm(&mut self, x: Value, affine: [Value; 2], statistics: [Value; 2], epsilon: f32) -> Value {
        let rank = self.shape(x).len();
        let [mean, variance] = statistics;
        let epsilon = self.scalar_like(variance, epsilon);
        let raised = self.add(variance, epsilon);
        let deviation = self.sqrt(raised);
        let slope = self.div(affine[0], deviation);
        let shift = self.mul(mean, slope);
        let offset = self.sub(affine[1], shift);
        let (slope, offset) = (self.per_channel(slope, rank), self.per_channel(offset, rank));
        let scaled = self.mul(x, slope);
        self.add(scaled, offset)
    }

    /// [batch, channels, spatial..] as [batch, spatial.., channels].
    pub(super) fn channels_last(&mut self, x: Value) -> Value {
        let order: Vec<_> = std::iter::once(0).chain(2..self.shape(x).len()).chain([1]).collect();
        self.transpose(x, &order)
    }

    /// [batch, spatial.., channels] as [batch, channels, spatial..].
    pub(super) fn channels_second(&mut self, x: Value) -> Value {
        let last = self.shape(x).len() - 1;
        let order: Vec<_> = [0, last].into_iter().chain(1..last).collect();
        self.transpose(x, &order)
    }

    /// [channels] as [channels, 1, ..], to broadcast against [batch, channels, ..] of that rank.
    pub(super) fn per_channel(&mut self, x: Value, rank: usize) -> Value {
        let shape: Vec<_> = self.shape(x).iter().copied().chain(std::iter::repeat_n(1, rank - 2)).collect();
        self.reshape(x, &shape)
    }
}
