//! What the kernels of cuda.cu compute, without a GPU: the source compiled by g++, its blocks and threads run one by
//! one, against the cell's definition in float64 and central differences of it.

mod common;

use common::noise;
use libloading::{Library, Symbol};

const ROWS: usize = 3;
const COLUMNS: usize = 300; // more than one block, the last not full

/// Runs a kernel over the whole grid in place of a GPU: block after block, each thread of it as a thread.
const HOST: &str = r#"
#include <atomic>
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>
#define __global__
#define __device__ static
#define __shared__ static
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, threadIdx;
static const Index blockDim = {256, 1, 1};
static std::unique_ptr<std::barrier<>> block;
static thread_local std::barrier<> *own_block;
static thread_local float *pool_of_block;
static void __syncthreads() { (own_block ? own_block : block.get())->arrive_and_wait(); }
static thread_local Index gridDim;
static void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
static void atomicAdd(unsigned *to, unsigned n) { std::atomic_ref<unsigned>(*to).fetch_add(n); }
static float __ldcg(const float *from) { return *(const volatile float *)from; }
#define SHARED_POOL float *pool = pool_of_block;
#include "cuda.cu"
template <class Call> static void each(unsigned x, unsigned y, Call call) {
    for (unsigned i = 0; i < x * y; i++) {
        block = std::make_unique<std::barrier<>>(256);
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 256; t++)
            threads.emplace_back([=] {
                blockIdx = {i % x, i / x, 0}, threadIdx = {t, 0, 0};
                call();
                // Who has returned is waited for no longer.
                block->arrive_and_drop();
            });
        for (auto &thread : threads)
            thread.join();
    }
}
// As `each`, with all blocks at once.
template <class Call> static void together(unsigned x, unsigned y, Call call) {
    std::vector<std::unique_ptr<std::barrier<>>> barriers;
    std::vector<std::vector<float>> pools(x * y, std::vector<float>(1 << 15, NAN));
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < x * y; i++)
        barriers.push_back(std::make_unique<std::barrier<>>(256));
    for (unsigned i = 0; i < x * y; i++)
        for (unsigned t = 0; t < 256; t++)
            threads.emplace_back([&, i, t] {
                own_block = barriers[i].get(), pool_of_block = pools[i].data(), gridDim = {x, y, 1};
                blockIdx = {i % x, i / x, 0}, threadIdx = {t, 0, 0};
                call();
            });
    for (auto &thread : threads)
        thread.join();
}
// As `each`, for kernels whose threads do not wait for each other.
template <class Call> static void each_alone(unsigned x, Call call) {
    for (unsigned i = 0; i < 256 * x; i++) {
        blockIdx = {i / 256, 0, 0}, threadIdx = {i % 256, 0, 0};
        call();
    }
}
static unsigned blocks(unsigned columns) { return (columns + 255) / 256; }
extern "C" void cell(unsigned rows, const float **in, float **out, unsigned columns, unsigned b, unsigned c) {
    each(rows, blocks(columns), [=] {
        lstm_cell(in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3], out[4], columns, b, c);
    });
}
extern "C" void cell_gradient(unsigned rows, const float **in, float **out, unsigned columns) {
    each(rows, blocks(columns), [=] {
        lstm_cell_gradient(in[0], in[1], in[2], in[3], in[4], in[5], in[6], out[0], out[1], columns);
    });
}
extern "C" void pass(const float **in, float **out, float *scratch, const unsigned *n) {
    const auto kernel = [=](auto entry) {
        entry(in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3], scratch, n[0], n[1], n[2], n[3], n[4], n[5],
              n[6], n[7]);
    };
    if (n[5]) {
        each_alone(1, [=] { kernel(recurrence_clear); });
        return together((n[2] + n[5] - 1) / n[5], (n[1] + n[6] - 1) / n[6], [=] { kernel(recurrence_together); });
    }
    each_alone(blocks(4 * n[2] * n[2]), [=] { kernel(recurrence_weights); });
    each((n[1] + ROWS - 1) / ROWS, 1, [=] { kernel(recurrence); });
}
extern "C" void pass_gradient(const float **in, float **out, float *scratch, const unsigned *n) {
    const auto kernel = [=](auto entry) {
        entry(in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], out[0], out[1], out[2], out[3], scratch, n[0], n[1],
              n[2], n[3], n[4], n[5], n[6], n[7]);
    };
    if (n[5]) {
        each_alone(1, [=] { kernel(recurrence_gradient_clear); });
        const unsigned x = (n[2] + n[5] - 1) / n[5], y = (n[1] + n[6] - 1) / n[6];
        return together(x, y, [=] { kernel(recurrence_together_gradient); });
    }
    each((n[1] + ROWS - 1) / ROWS, 1, [=] { kernel(recurrence_gradient); });
}
"#;

fn compiled() -> (tempfile::TempDir, Library) {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("host.cc"), folder.path().join("host.so"));
    std::fs::write(&source, HOST).unwrap();
    let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/kernels");
    let mut compiler = std::process::Command::new("c++");
    compiler.args(["-std=c++20", "-pthread", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Werror"]);
    compiler.args(["-I", kernels, "-o"]).args([&library, &source]);
    assert!(compiler.status().unwrap().success());
    // SAFETY: a library without initializers.
    let loaded = unsafe { Library::new(&library) }.unwrap();
    (folder, loaded)
}

fn values(seed: u64, n: usize) -> Vec<f32> {
    noise(seed, n).map(|x| 4.0 * x).collect()
}

/// Addresses of arrays, null for those that are empty.
fn pointers(arrays: &[&[f32]]) -> Vec<*const f32> {
    arrays.iter().map(|array| if array.is_empty() { std::ptr::null() } else { array.as_ptr() }).collect()
}

fn outputs(arrays: &mut [Vec<f32>]) -> Vec<*mut f32> {
    arrays.iter_mut().map(|array| if array.is_empty() { std::ptr::null_mut() } else { array.as_mut_ptr() }).collect()
}

/// Gates (input, forget, output, candidate) and the state before, to the activated gates, the new state and the hidden
/// state (Hochreiter and Schmidhuber 1997).
fn cell(gates: [f64; 4], before: f64) -> ([f64; 4], f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let [input, forget, output] = [gates[0], gates[1], gates[2]].map(sigmoid);
    let candidate = gates[3].tanh();
    let state = forget * before + input * candidate;
    ([input, forget, output, candidate], state, output * state.tanh())
}

fn close(found: f32, expected: f64, what: &str) {
    assert!((f64::from(found) - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{what}: {found}, not {expected}");
}

#[test]
fn cells_and_their_gradients_are_what_they_are_defined_as() {
    type Forward = unsafe extern "C" fn(u32, *const *const f32, *const *mut f32, u32, u32, u32);
    type Backward = unsafe extern "C" fn(u32, *const *const f32, *const *mut f32, u32);
    let (_folder, library) = compiled();
    let n = ROWS * COLUMNS;
    let (gates, before) = (values(1, 4 * n), values(2, n));
    // Further parts of the gates: none, rows of their own, or one row for all.
    for (second, third) in [(0, 0), (4 * n, 4 * COLUMNS), (4 * COLUMNS, 0)] {
        let (second, third) = (values(3, second), values(4, third));
        let stride = |part: &[f32]| if part.len() == 4 * n { 4 * COLUMNS as u32 } else { 0 };
        let gate = |row: usize, column: usize| {
            std::array::from_fn::<_, 4, _>(|k| {
                let at = k * COLUMNS + column;
                let own = |part: &[f32]| part.get(stride(part) as usize * row + at).map_or(0.0, |x| f64::from(*x));
                f64::from(gates[4 * COLUMNS * row + at]) + own(&second) + own(&third)
            })
        };
        let mut out = [n, n, 3 * n, n, n].map(|n| vec![f32::NAN; n]);
        let columns = COLUMNS as u32;
        // SAFETY: the functions above, with arrays of the sizes that they expect.
        unsafe {
            let forward: Symbol<'_, Forward> = library.get(b"cell").unwrap();
            let given = pointers(&[&gates, &before, &second, &third]);
            let made = outputs(&mut out);
            forward(ROWS as u32, given.as_ptr(), made.as_ptr(), columns, stride(&second), stride(&third));
        }
        let (dh, more, dc) = (values(5, n), values(6, n), values(7, n));
        let more = if second.is_empty() { Vec::new() } else { more };
        let mut gradients = [4 * n, n].map(|n| vec![f32::NAN; n]);
        // SAFETY: as above.
        unsafe {
            let backward: Symbol<'_, Backward> = library.get(b"cell_gradient").unwrap();
            let given = pointers(&[&dh, &dc, &out[2], &out[3], &out[4], &before, &more]);
            let made = outputs(&mut gradients);
            backward(ROWS as u32, given.as_ptr(), made.as_ptr(), columns);
        }
        for (row, column) in (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column))) {
            let at = row * COLUMNS + column;
            let (gates, before) = (gate(row, column), f64::from(before[at]));
            let (active, state, hidden) = cell(gates, before);
            close(out[0][at], hidden, "hidden state");
            close(out[1][at], state, "cell state");
            (0..3).for_each(|k| close(out[2][(3 * row + k) * COLUMNS + column], active[k], "sigmoid"));
            close(out[3][at], active[3], "candidate");
            close(out[4][at], state.tanh(), "tanh of the cell state");
            let (dh, dc) = (f64::from(dh[at]) + more.get(at).map_or(0.0, |x| f64::from(*x)), f64::from(dc[at]));
            let loss = |gates: [f64; 4], before: f64| {
                let (_, state, hidden) = cell(gates, before);
                dh * hidden + dc * state
            };
            let difference = |f: &dyn Fn(f64) -> f64| (f(1e-5) - f(-1e-5)) / 2e-5;
            for k in 0..4 {
                let moved = |by: f64| loss(std::array::from_fn(|i| gates[i] + if i == k { by } else { 0.0 }), before);
                close(gradients[0][(4 * row + k) * COLUMNS + column], difference(&moved), "gradient of a gate");
            }
            close(gradients[1][at], difference(&|by| loss(gates, before + by)), "gradient of the state before");
        }
        // What nobody takes is left out.
        let mut few = [vec![f32::NAN; n], Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        // SAFETY: as above.
        unsafe {
            let forward: Symbol<'_, Forward> = library.get(b"cell").unwrap();
            let given = pointers(&[&gates, &before, &second, &third]);
            let made = outputs(&mut few);
            forward(ROWS as u32, given.as_ptr(), made.as_ptr(), columns, stride(&second), stride(&third));
        }
        assert_eq!(few[0], out[0]);
    }
}

/// A recurrent pass in float64, as its operator defines it.
#[derive(Clone)]
struct Pass {
    kind: usize,
    reverse: bool,
    steps: usize,
    batch: usize,
    hidden: usize,
    /// [steps, batch, gates hidden], [gates hidden, hidden], [batch, hidden], and the fourth input.
    given: [Vec<f64>; 4],
}

impl Pass {
    fn gates(&self) -> usize {
        [4, 3, 1, 1][self.kind]
    }

    /// The states before each step, those behind it, and the last cell state.
    fn run(&self) -> [Vec<f64>; 3] {
        let &Self { kind, reverse, steps, batch, hidden, .. } = self;
        let [shares, weights, start, fourth] = &self.given;
        let (width, mut cells) =
            (self.gates() * hidden, if kind == 0 { fourth.clone() } else { vec![0.0; batch * hidden] });
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (mut earlier, mut states) = (vec![0.0; steps * batch * hidden], vec![0.0; steps * batch * hidden]);
        let mut state = start.clone();
        for step in 0..steps {
            let t = if reverse { steps - 1 - step } else { step };
            let before = state.clone();
            for (row, unit) in (0..batch).flat_map(|row| (0..hidden).map(move |unit| (row, unit))) {
                let own = &before[row * hidden..(row + 1) * hidden];
                let share = |gate: usize| shares[(t * batch + row) * width + gate * hidden + unit];
                let product = |gate: usize| -> f64 {
                    let weights = &weights[(gate * hidden + unit) * hidden..][..hidden];
                    weights.iter().zip(own).map(|(w, h)| w * h).sum()
                };
                let at = row * hidden + unit;
                state[at] = match kind {
                    0 => {
                        let [input, forget, output] = [0, 1, 2].map(|gate| sigmoid(share(gate) + product(gate)));
                        cells[at] = forget * cells[at] + input * (share(3) + product(3)).tanh();
                        output * cells[at].tanh()
                    }
                    1 => {
                        let [update, reset] = [0, 1].map(|gate| sigmoid(share(gate) + product(gate)));
                        let fresh = (share(2) + reset * (product(2) + fourth[unit])).tanh();
                        (1.0 - update) * fresh + update * own[unit]
                    }
                    2 => (share(0) + product(0)).tanh(),
                    _ => (share(0) + product(0)).max(0.0),
                };
            }
            let place = t * batch * hidden..(t + 1) * batch * hidden;
            earlier[place.clone()].copy_from_slice(&before);
            states[place].copy_from_slice(&state);
        }
        [earlier, states, cells]
    }

    /// A sum of all that the pass gives, each number with its own factor.
    fn loss(&self, [dy, dlast, dcell]: &[Vec<f32>; 3]) -> f64 {
        let [_, states, cells] = self.run();
        let end = if self.reverse { 0 } else { states.len() - cells.len() };
        let sum = |values: &[f64], factors: &[f32]| -> f64 {
            values.iter().zip(factors).map(|(x, f)| x * f64::from(*f)).sum()
        };
        sum(&states, dy) + sum(&states[end..end + cells.len()], dlast) + sum(&cells, dcell)
    }

    /// What the loss changes by from an element of an input on.
    fn slope(&self, factors: &[Vec<f32>; 3], input: usize, at: usize) -> f64 {
        let moved = |by: f64| {
            let mut other = self.clone();
            other.given[input][at] += by;
            other.loss(factors)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    }
}

#[test]
fn passes_over_time_and_their_gradients_are_what_they_are_defined_as() {
    let (_folder, library) = compiled();
    for (kind, reverse) in (0..4).flat_map(|kind| [(kind, false), (kind, true)]) {
        check_pass(&library, kind, reverse, [5, 3, 7], [0; 3]);
        check_pass(&library, kind, reverse, [3, 6, 9], [4, 4, 1]);
        check_pass(&library, kind, reverse, [4, 9, 8], [8, 8, 2]);
        // More units than threads.
        if kind < 2 && !reverse {
            check_pass(&library, kind, reverse, [2, 1, 258], [0; 3]);
        }
    }
}

/// `shared`: units and rows of each block and gates read at once, 0 for kernels whose blocks do not wait for each other.
fn check_pass(library: &Library, kind: usize, reverse: bool, [steps, batch, hidden]: [usize; 3], shared: [usize; 3]) {
    type Kernel = unsafe extern "C" fn(*const *const f32, *const *mut f32, *mut f32, *const u32);
    let (gates, kept) = ([4, 3, 1, 1][kind], [6, 4, 1, 1][kind]);
    let (all, width) = (batch * hidden, gates * hidden);
    let scale = |seed: u64, n: usize, by: f32| -> Vec<f32> { noise(seed, n).map(|x| by * x).collect() };
    let given = [
        scale(1, steps * batch * width, 1.0),
        scale(2, width * hidden, 1.0 / (hidden as f32).sqrt()),
        scale(3, all, 1.0),
        scale(4, [all, hidden, 0, 0][kind], 1.0),
    ];
    let numbers = [steps, batch, hidden, kind, usize::from(reverse), shared[0], shared[1], shared[2]].map(|n| n as u32);
    let mut made = [steps * all, all, all, steps * kept * all].map(|n| vec![f32::NAN; n]);
    let mut scratch = vec![f32::NAN; 256 + width * hidden + 3 * all];
    let exact = Pass {
        kind,
        reverse,
        steps,
        batch,
        hidden,
        given: given.clone().map(|x| x.iter().map(|x| f64::from(*x)).collect()),
    };
    // SAFETY: arrays of the sizes that the kernels expect.
    unsafe {
        let pass: Symbol<'_, Kernel> = library.get(b"pass").unwrap();
        let given = pointers(&given.each_ref().map(Vec::as_slice));
        pass(given.as_ptr(), outputs(&mut made).as_ptr(), scratch.as_mut_ptr(), numbers.as_ptr());
        // Outputs that nobody takes.
        let mut none = [Vec::new(), vec![f32::NAN; all], Vec::new(), Vec::new()];
        pass(given.as_ptr(), outputs(&mut none).as_ptr(), scratch.as_mut_ptr(), numbers.as_ptr());
        assert_eq!(none[1], made[1]);
    }
    let what = format!("kind {kind}, reverse {reverse}, {steps} x {batch} x {hidden}");
    let [earlier, states, cells] = exact.run();
    made[0].iter().zip(&states).for_each(|(found, expected)| close(*found, *expected, &what));
    made[2].iter().zip(&cells).for_each(|(found, expected)| close(*found, *expected, &what));
    let end = if reverse { 0 } else { (steps - 1) * all };
    assert_eq!(made[1], made[0][end..end + all]);

    let factors = [scale(5, steps * all, 1.0), scale(6, all, 1.0), scale(7, all, f32::from(u8::from(kind == 0)))];
    let mut found = [steps * batch * width, steps * batch * width, all, all].map(|n| vec![f32::NAN; n]);
    let mut scratch = vec![f32::NAN; 256 + (2 + 2 * gates) * all];
    // SAFETY: as above.
    unsafe {
        let pass: Symbol<'_, Kernel> = library.get(b"pass_gradient").unwrap();
        let taken = [&factors[0], &factors[1], &factors[2], &given[1], &made[3], &made[0], &given[2], &given[3]];
        let taken = pointers(&taken.map(Vec::as_slice));
        pass(taken.as_ptr(), outputs(&mut found).as_ptr(), scratch.as_mut_ptr(), numbers.as_ptr());
    }
    let near = |found: f64, expected: f64, name: &str| {
        assert!((found - expected).abs() < 2e-5 * expected.abs().max(1.0), "{what}: {name} {found}, not {expected}");
    };
    // Some elements of each, spread over all.
    let some = |n: usize| (0..12).map(move |i| i * (n - 1) / 11);
    for at in some(found[0].len()) {
        near(found[0][at].into(), exact.slope(&factors, 0, at), "gradient of what inputs give");
    }
    for at in some(all) {
        near(found[2][at].into(), exact.slope(&factors, 2, at), "gradient of the state before");
        if kind == 0 {
            near(found[3][at].into(), exact.slope(&factors, 3, at), "gradient of the cell state before");
        }
    }
    // What the weights get is the sum of these products over rows and steps.
    let products = if kind == 1 { &found[1] } else { &found[0] };
    for at in some(width * hidden) {
        let (gate, unit) = (at / hidden, at % hidden);
        let sum: f64 =
            (0..steps * batch).map(|row| f64::from(products[row * width + gate]) * earlier[row * hidden + unit]).sum();
        near(sum, exact.slope(&factors, 1, at), "gradient of a weight");
    }
}
