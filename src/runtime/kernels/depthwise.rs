//! Depthwise convolutions over one axis on CUDA, by kernels of our own: depthwise.cu.

use std::ffi::c_void;

use cudarc::driver::{result, sys};
use ort::memory::Allocator;

use super::cuda::Module;
use super::last_conv::Wanted;
use super::operator::Attributes;
use crate::graph::{DType, TensorType};

/// Blocks that share the sums of a weight's gradient.
const PARTS: usize = 64;
const EACH: usize = 8;
const TAPS: usize = 8;
const BLOCK: usize = 256;

/// A depthwise convolution.
pub(super) struct Depthwise {
    wanted: Wanted,
    dtype: DType,
    batch: usize,
    rows: usize,
    places: usize,
    channels: usize,
    taps: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
}

impl Depthwise {
    /// Of the input's, the weight's and the output's type; `None`: it is none, or over more than one axis.
    pub(super) fn new(
        wanted: Wanted,
        [input, weight, output]: [&TensorType; 3],
        attributes: &Attributes,
    ) -> Option<Self> {
        let &[batch, rows, channels] = input.shape.as_slice() else { return None };
        let &[out, taps, 1] = weight.shape.as_slice() else { return None };
        let places = *output.shape.get(1)?;
        let first = |name, default| attributes.ints(name, &[default]).first().map(|size| *size as usize);
        let (stride, dilation, pad) = (first("strides", 1)?, first("dilations", 1)?, first("pads", 0)?);
        let plain = channels == out && attributes.int("group", 1) == channels as i64;
        let dtype = input.dtype;
        // Its kernels count in 32 bits.
        let counts = [input, weight, output].iter().all(|ty| ty.elements() < 1 << 31);
        (plain && counts).then_some(Self { wanted, dtype, batch, rows, places, channels, taps, stride, dilation, pad })
    }

    /// Puts the kernels into the stream; arrays in the order input, weight, output.
    pub(super) fn run(
        &self,
        module: &Module,
        arrays: [*mut c_void; 3],
        allocator: &Allocator,
        stream: sys::CUstream,
    ) -> ort::Result<()> {
        let Self { batch, rows, places, channels, taps, .. } = *self;
        let shape = [batch, rows, places, channels, taps, self.stride, self.dilation, self.pad].map(|n| n as u32);
        let [input, weight, output] = arrays.map(|array| array as u64);
        let over = |count: usize| batch * count.div_ceil(EACH) * channels;
        let one = |name: &str, from: u64, to: u64, threads: usize| {
            let blocks = [threads.div_ceil(BLOCK), 1];
            module.start(&format!("{name}_{}", self.dtype), blocks, &[from, weight, to], &shape, stream)
        };
        match self.wanted {
            Wanted::Output => one("depthwise", input, output, over(places)),
            Wanted::Input => one("depthwise_input_gradient", output, input, over(rows)),
            Wanted::Weight => {
                let mut sums = allocator.alloc::<f32>(PARTS * channels * taps)?;
                let sums = sums.as_mut_ptr() as u64;
                let blocks = [channels.div_ceil(32), PARTS * taps.div_ceil(TAPS)];
                let name = format!("depthwise_weight_parts_{}", self.dtype);
                module.start(&name, blocks, &[input, output, sums], &shape, stream)?;
                let elements = channels * taps;
                let name = format!("depthwise_weight_sum_{}", self.dtype);
                let numbers = [PARTS as u32, elements as u32];
                module.start(&name, [elements.div_ceil(BLOCK), 1], &[sums, weight], &numbers, stream)
            }
        }
    }
}

impl Module {
    /// Starts a kernel of blocks of 256 threads that takes arrays, then numbers.
    fn start(
        &self,
        name: &str,
        [x, y]: [usize; 2],
        arrays: &[u64],
        numbers: &[u32],
        stream: sys::CUstream,
    ) -> ort::Result<()> {
        let function = self.function(name)?;
        let (mut arrays, mut numbers) = (arrays.to_vec(), numbers.to_vec());
        let arrays = arrays.iter_mut().map(|array| std::ptr::from_mut(array).cast::<c_void>());
        let mut arguments: Vec<_> = arrays.chain(numbers.iter_mut().map(|n| std::ptr::from_mut(n).cast())).collect();
        // SAFETY: the kernels of depthwise.cu take these arrays, of the shape's sizes, and numbers; the driver reads them
        // before it returns.
        unsafe {
            result::launch_kernel(function, (x as u32, y as u32, 1), (BLOCK as u32, 1, 1), 0, stream, &mut arguments)
        }
        .map_err(|error| ort::Error::new(format!("{name}: {error:?}")))
    }
}
