//! Regions of random graphs: the CUDA text, compiled by g++ and run thread by thread, against the CPU's kernel, and
//! compiled by NVRTC for the architectures of CUDA 13.

use half::{bf16, f16};
use libloading::{Library, Symbol};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::cpu::{Arrays, Elements, Place, Prepared};
use super::source::{Source, source};
use crate::graph::{DType, Graph, Kernels, PROGRAM, Program, REGION, TensorType, Value, select_kernels};
use crate::runtime::kernels::cuda::{PRELUDE, REGIONS, compile};
use crate::runtime::kernels::operator::Workers;

/// What CUDA has and g++ has not; every thread of a block is a thread.
const HOST: &str = r#"
#include <barrier>
#include <bit>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>
using std::min;
#define __global__
#define __device__ static
#define __shared__ static
#define __launch_bounds__(n)
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, threadIdx;
static std::unique_ptr<std::barrier<>> block, warps[16];
static float lanes[512];
static void __syncthreads() { block->arrive_and_wait(); }
static float __shfl_xor_sync(unsigned, float x, int apart) {
    std::barrier<> &warp = *warps[threadIdx.x / 32];
    lanes[threadIdx.x] = x;
    warp.arrive_and_wait();
    const float other = lanes[threadIdx.x ^ apart];
    warp.arrive_and_wait();
    return other;
}
static float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
static float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
static unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
static float from_float16(unsigned short bits) { return std::bit_cast<_Float16>(bits); }
static unsigned short to_float16(float x) { return std::bit_cast<unsigned short>((_Float16)x); }
template <class Call> static void each(unsigned x, unsigned y, unsigned threads, bool meet, Call call) {
    for (unsigned i = 0; i < x * y; i++) {
        if (!meet) {
            for (unsigned t = 0; t < threads; t++)
                blockIdx = {i % x, i / x, 0}, threadIdx = {t, 0, 0}, call();
            continue;
        }
        block = std::make_unique<std::barrier<>>(threads);
        for (auto &warp : warps)
            warp = std::make_unique<std::barrier<>>(32);
        std::vector<std::thread> all;
        for (unsigned t = 0; t < threads; t++)
            all.emplace_back([=] { blockIdx = {i % x, i / x, 0}, threadIdx = {t, 0, 0}, call(); });
        for (auto &thread : all)
            thread.join();
    }
}
"#;

/// A graph of random pointwise operators, views and reductions, with some of its values as outputs.
fn random_graph(seed: u64) -> Graph {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut graph = Graph::new();
    let sizes = [1, 2, 3, 4, 8, 40];
    let mut shape: Vec<usize> = (0..rng.random_range(1..4)).map(|_| *sizes.choose(&mut rng).unwrap()).collect();
    if seed.is_multiple_of(5) {
        // Long rows, which blocks share.
        shape = vec![2, 3, 1500];
    } else if seed % 5 == 1 {
        shape = vec![2500, 3];
    }
    let mut values: Vec<Value> = Vec::new();
    for i in 0..3 {
        let own = shape.iter().map(|size| if rng.random_bool(0.3) { 1 } else { *size }).collect::<Vec<_>>();
        let own = if i == 0 { shape.clone() } else { own };
        values.push(graph.input(&format!("x{i}"), TensorType::f32(own)));
    }
    for _ in 0..rng.random_range(4..24) {
        let x = *values.choose(&mut rng).unwrap();
        let own = graph.shape(x).to_vec();
        let rank = own.len();
        let y = match rng.random_range(0..14) {
            0 => graph.sigmoid(x),
            1 => graph.tanh(x),
            2 => graph.erf(x),
            3 => graph.abs(x),
            4 => {
                let axis = rng.random_range(0..rank);
                graph.reduce_sum(x, &[axis], true)
            }
            5 => {
                let axes: Vec<_> = (0..rank).filter(|_| rng.random_bool(0.6)).collect();
                graph.reduce_mean(x, &axes, true)
            }
            6 => {
                let axis = rng.random_range(0..rank);
                graph.reduce_max(x, &[axis], true)
            }
            7 if own == shape => {
                let (elements, first) = (own.iter().product::<usize>(), own[0]);
                let flat = graph.reshape(x, &[first, elements / first]);
                let turned = graph.transpose(flat, &[1, 0]);
                let there = graph.relu(turned);
                let back = graph.transpose(there, &[1, 0]);
                graph.reshape(back, &own)
            }
            8 => {
                let to = if rng.random_bool(0.5) { DType::F16 } else { DType::BF16 };
                let half = graph.cast(x, to);
                let twice = graph.add(half, half);
                graph.to_f32(twice)
            }
            9 => {
                let zero = graph.scalar(0.0);
                let above = graph.greater(x, zero);
                let small = graph.scalar(0.25);
                let scaled = graph.mul(x, small);
                graph.select(above, x, scaled)
            }
            10 if own != shape => graph.expand(x, &shape),
            10 => {
                let axis = rng.random_range(0..rank);
                let piece = graph.slice(x, axis, own[axis] - 1, own[axis]);
                graph.sub(x, piece)
            }
            _ => {
                let other = *values.choose(&mut rng).unwrap();
                let operator = [Graph::add, Graph::sub, Graph::mul, Graph::max].choose(&mut rng).unwrap();
                operator(&mut graph, x, other)
            }
        };
        values.push(y);
    }
    let some: Vec<_> = values[3..].choose_multiple(&mut rng, 3).copied().collect();
    some.into_iter().chain(values.last().copied()).enumerate().for_each(|(i, y)| graph.output(&format!("y{i}"), y));
    select_kernels(&mut graph, Kernels::Cuda);
    graph
}

fn programs(graphs: std::ops::Range<u64>) -> Vec<Program> {
    let graphs = graphs.map(random_graph).collect::<Vec<_>>();
    let nodes = graphs.iter().flat_map(Graph::nodes).filter(|node| node.operator.name == REGION);
    nodes.map(|node| Program::from_text(node.text(PROGRAM, "")).unwrap()).collect()
}

/// Elements of any type.
#[derive(Debug, Clone)]
enum Array {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

impl Array {
    fn new(dtype: DType, n: usize, mut next: impl FnMut() -> f32) -> Self {
        match dtype {
            DType::F32 => Self::F32((0..n).map(|_| next()).collect()),
            DType::F16 => Self::F16((0..n).map(|_| f16::from_f32(next())).collect()),
            DType::BF16 => Self::BF16((0..n).map(|_| bf16::from_f32(next())).collect()),
            DType::I64 => Self::I64((0..n).map(|_| (next() * 100.0) as i64).collect()),
            DType::Bool => Self::Bool((0..n).map(|_| next() > 0.0).collect()),
        }
    }

    fn elements(&self) -> Elements<'_> {
        match self {
            Self::F32(x) => Elements::F32(x),
            Self::F16(x) => Elements::F16(x),
            Self::BF16(x) => Elements::BF16(x),
            Self::I64(x) => Elements::I64(x),
            Self::Bool(x) => Elements::Bool(x),
        }
    }

    fn place(&mut self) -> Place {
        match self {
            Self::F32(x) => Place::F32(x.as_mut_ptr()),
            Self::F16(x) => Place::F16(x.as_mut_ptr()),
            Self::BF16(x) => Place::BF16(x.as_mut_ptr()),
            Self::I64(x) => Place::I64(x.as_mut_ptr()),
            Self::Bool(x) => Place::Bool(x.as_mut_ptr()),
        }
    }

    fn address(&mut self) -> u64 {
        match self.place() {
            Place::F32(x) => x as u64,
            Place::F16(x) => x as u64,
            Place::BF16(x) => x as u64,
            Place::I64(x) => x as u64,
            Place::Bool(x) => x as u64,
        }
    }

    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
            Self::F16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Self::BF16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Self::I64(x) => x.iter().map(|x| *x as f64).collect(),
            Self::Bool(x) => x.iter().map(|x| f64::from(u8::from(*x))).collect(),
        }
    }
}

/// Calls of each region's kernels with the addresses of its arrays.
fn calls(programs: &[Program], sources: &[Source]) -> String {
    let mut text = String::new();
    for (i, (program, source)) in programs.iter().zip(sources).enumerate() {
        text += &format!("extern \"C\" void call{i}(const unsigned long long *a) {{\n");
        for start in &source.starts {
            let [x, y] = start.blocks;
            let pointer = |dtype: DType| match dtype {
                DType::F32 => "float *",
                DType::F16 | DType::BF16 => "unsigned short *",
                DType::I64 => "long long *",
                DType::Bool => "unsigned char *",
            };
            let types = program.inputs.iter().map(|(dtype, _)| *dtype);
            let types = types.chain(program.output_types().into_iter().map(|ty| ty.dtype)).chain([DType::F32]);
            let given: Vec<_> = types.enumerate().map(|(k, dtype)| format!("({})a[{k}]", pointer(dtype))).collect();
            let (meet, given) = (program.has_reductions(), given.join(", "));
            text += &format!("each({x}, {y}, {}, {meet}, [=] {{ {}({given}); }});\n", start.threads, start.entry);
        }
        text += "}\n";
    }
    text
}

fn texts(programs: &[Program]) -> (String, Vec<Source>) {
    let sources: Vec<_> =
        programs.iter().enumerate().map(|(i, program)| source(program, &format!("region{i}"))).collect();
    let all: String = sources.iter().map(|source| source.text.as_str()).collect();
    (format!("{PRELUDE}{all}"), sources)
}

/// The text as a library, compiled by g++.
fn built(text: &str) -> (tempfile::TempDir, Library) {
    let folder = tempfile::tempdir().unwrap();
    let (path, library) = (folder.path().join("host.cc"), folder.path().join("host.so"));
    std::fs::write(&path, text).unwrap();
    let mut compiler = std::process::Command::new("c++");
    compiler.args(["-std=c++20", "-pthread", "-O1", "-shared", "-fPIC", "-w", "-o"]).args([&library, &path]);
    assert!(compiler.status().unwrap().success());
    // SAFETY: a library without initializers.
    let loaded = unsafe { Library::new(&library) }.unwrap();
    (folder, loaded)
}

#[test]
fn the_text_for_cuda_computes_what_the_cpu_computes() {
    let programs = programs(0..60);
    assert!(programs.len() > 60, "{}", programs.len());
    let (text, sources) = texts(&programs);
    assert!(sources.iter().any(|source| source.starts.len() == 2), "no rows are shared");
    let (_folder, library) = built(&format!("{HOST}{text}{}", calls(&programs, &sources)));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    for (i, (program, source)) in programs.iter().zip(&sources).enumerate() {
        let mut inputs: Vec<_> = program
            .input_types()
            .into_iter()
            .map(|ty| Array::new(ty.dtype, ty.elements(), || rng.random_range(-2.0..2.0)))
            .collect();
        let types = program.output_types();
        let blank = || types.iter().map(|ty| Array::new(ty.dtype, ty.elements(), || f32::NAN)).collect::<Vec<_>>();
        let (mut found, mut expected) = (blank(), blank());
        let mut scratch = vec![f32::NAN; source.scratch];
        let addresses = inputs.iter_mut().map(Array::address).chain(found.iter_mut().map(Array::address));
        let addresses: Vec<_> = addresses.chain([scratch.as_mut_ptr() as u64]).collect();
        // SAFETY: arrays of the program's types and sizes.
        unsafe {
            let call: Symbol<'_, unsafe extern "C" fn(*const u64)> =
                library.get(format!("call{i}").as_bytes()).unwrap();
            call(addresses.as_ptr());
        }
        let arrays = Arrays {
            inputs: inputs.iter().map(Array::elements).collect(),
            outputs: expected.iter_mut().map(Array::place).collect(),
        };
        Prepared::new(program.clone()).run(&arrays, &Workers::alone()).unwrap();
        for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let ty = &types[k];
            // Sums are taken in another order; half precision may round the other way.
            let limit =
                if ty.dtype == DType::F32 && !program.inputs.iter().any(|(ty, _)| ty.is_half()) { 1e-3 } else { 4e-2 };
            let scale = expected.numbers().iter().fold(1.0f64, |most, x| most.max(x.abs()));
            for (at, (found, expected)) in found.numbers().into_iter().zip(expected.numbers()).enumerate() {
                let near = (found - expected).abs() <= limit * scale || (found.is_nan() && expected.is_nan());
                assert!(
                    near,
                    "region {i}, output {k} {ty}, element {at}: {found}, not {expected}\n{program:?}\n{}",
                    source.text
                );
            }
        }
    }
}

#[test]
fn the_text_compiles_for_architectures_of_cuda_13() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/nvrtc/nvidia/cu13/lib/libnvrtc.so.13");
    ort::util::preload_dylib(folder).unwrap();
    let (text, sources) = texts(&programs(0..30));
    for architecture in ["sm_75", "sm_90"] {
        let binary = compile(&text, REGIONS, architecture).unwrap();
        for start in sources.iter().flat_map(|source| &source.starts) {
            let symbol = format!("\0.text.{}\0", start.entry);
            assert!(binary.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes()), "{}", start.entry);
        }
    }
}

#[test]
fn every_pointwise_operator_is_a_function() {
    for name in crate::graph::pointwise() {
        let plain = ["Cast", "Identity", "LeakyRelu", "Where"].contains(&name);
        let known = plain || super::functions::is_known(name) || super::functions::is_known_of_two(name);
        assert!(known, "{name}");
    }
}

#[test]
fn functions_are_those_of_the_standard_library() {
    let numbers: Vec<f32> =
        (-4000..4000).map(|i| i as f32 / 300.0).chain([0.0, 1e-30, 60.0, -60.0, 88.0, -87.0]).collect();
    for (name, exact) in
        [("Exp", f64::exp as fn(f64) -> f64), ("Tanh", f64::tanh), ("Sigmoid", |x| 1.0 / (1.0 + (-x).exp()))]
    {
        let mut found = vec![0.0; numbers.len()];
        super::functions::unary(name, &numbers, &mut found);
        for (x, found) in numbers.iter().zip(found) {
            let expected = exact(f64::from(*x));
            assert!((f64::from(found) - expected).abs() <= 5e-7 * expected.abs().max(1e-30), "{name} {x}: {found}");
        }
    }
    // Of the error function's series (Abramowitz and Stegun 1964, 7.1.5).
    let series = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for k in 1..80 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    let mut found = vec![0.0; numbers.len()];
    super::functions::unary("Erf", &numbers, &mut found);
    for (x, found) in numbers.iter().zip(found).filter(|(x, _)| x.abs() < 4.0) {
        let expected = series(f64::from(*x));
        assert!(
            (f64::from(found) - expected).abs() <= 3e-7 * f64::from(2.0 * x.abs().min(0.5)),
            "{x}: {found}, {expected}"
        );
    }
    let mut ends = [0.0; 5];
    super::functions::unary("Exp", &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 100.0, -120.0], &mut ends);
    assert!(
        ends[0] == f32::INFINITY && ends[1] == 0.0 && ends[2].is_nan() && ends[3] == f32::INFINITY && ends[4] == 0.0
    );
}

#[test]
fn depthwise_convolutions_are_those_of_the_cpu() {
    use crate::graph::{Attribute, Attributes};
    use crate::runtime::kernels::last_conv::{LastConv, Wanted};
    use crate::runtime::kernels::operator::{Input, Kernel};
    let source = include_str!("../depthwise.cu");
    let calls = r#"
extern "C" void forward(const float **a, const unsigned *n, unsigned blocks) {
    each(blocks, 1, 256, false, [=] {
        depthwise_float32(a[0], a[1], (float *)a[2], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]);
    });
}
extern "C" void input(const float **a, const unsigned *n, unsigned blocks) {
    each(blocks, 1, 256, false, [=] {
        depthwise_input_gradient_float32(a[2], a[1], (float *)a[0], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]);
    });
}
extern "C" void weight(const float **a, const unsigned *n, unsigned blocks) {
    const unsigned chunks = (n[4] + 7) / 8;
    gridDim = {blocks, 3 * chunks, 1};
    each(blocks, 3 * chunks, 256, true, [=] {
        depthwise_weight_parts_float32(a[0], a[2], (float *)a[3], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]);
    });
    each((n[3] * n[4] + 255) / 256, 1, 256, false, [=] {
        depthwise_weight_sum_float32(a[3], (float *)a[1], 3, n[3] * n[4]);
    });
}
"#;
    let (_folder, library) = built(&format!("{HOST}static Index gridDim;\n{PRELUDE}{source}{calls}"));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    for [batch, rows, channels, taps, stride, dilation, pad] in
        [[2, 21, 5, 3, 1, 1, 1], [3, 40, 33, 9, 2, 1, 4], [1, 30, 40, 11, 1, 2, 0], [2, 17, 8, 4, 3, 2, 5]]
    {
        let places = (rows + 2 * pad - (taps - 1) * dilation - 1) / stride + 1;
        let mut noise = |n: usize| (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
        let x = noise(batch * rows * channels);
        let (w, dy) = (noise(channels * taps), noise(batch * places * channels));
        let ints = |n: usize| Attribute::Ints(vec![n as i64]);
        let attributes = Attributes::from_iter([
            ("kernel_shape".into(), ints(taps)),
            ("strides".into(), ints(stride)),
            ("dilations".into(), ints(dilation)),
            ("pads".into(), Attribute::Ints(vec![pad as i64; 2])),
            ("group".into(), Attribute::Int(channels as i64)),
            ("sizes".into(), ints(rows)),
        ]);
        let shapes = [vec![batch, rows, channels], vec![channels, taps, 1], vec![batch, places, channels]];
        let numbers = [batch, rows, places, channels, taps, stride, dilation, pad].map(|n| n as u32);
        let over = |count: usize| ((batch * count.div_ceil(8) * channels).div_ceil(256)) as u32;
        for (name, wanted, place, blocks) in [
            ("forward", Wanted::Output, 2, over(places)),
            ("input", Wanted::Input, 0, over(rows)),
            ("weight", Wanted::Weight, 1, channels.div_ceil(32) as u32),
        ] {
            let mut arrays = [x.clone(), w.clone(), dy.clone(), vec![f32::NAN; 3 * channels * taps]];
            let given: Vec<_> = (0..3).filter(|i| *i != place).collect();
            let order = if wanted == Wanted::Input { [2, 1] } else { [given[0], given[1]] };
            let inputs = order.map(|i| Input { shape: &shapes[i], values: &arrays[i], integers: &[] });
            let mut expected = vec![f32::NAN; arrays[place].len()];
            LastConv::new(wanted, &attributes).compute(&inputs, &mut [&mut expected], &Workers::alone()).unwrap();
            arrays[place].fill(f32::NAN);
            let addresses: Vec<_> = arrays.iter_mut().map(|array| array.as_mut_ptr()).collect();
            // SAFETY: the functions above, with arrays of the sizes that they expect.
            unsafe {
                let call: Symbol<'_, unsafe extern "C" fn(*const *mut f32, *const u32, u32)> =
                    library.get(name.as_bytes()).unwrap();
                call(addresses.as_ptr(), numbers.as_ptr(), blocks);
            }
            for (found, expected) in arrays[place].iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{name} {numbers:?}: {found}, not {expected}");
            }
        }
    }
}
