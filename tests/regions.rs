//! Random graphs of pointwise operators, views and reductions: as regions, and as standard operators.

mod common;

use common::noise;
use emg_pipeline::graph::{DType, Graph, Kernels, ModelInfo, TensorType, Value, prune, select_kernels, to_onnx};
use emg_pipeline::runtime::{self, Provider, Session, Tensor};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A graph with some of its values as outputs, and the shapes of its inputs.
fn random_graph(seed: u64) -> (Graph, Vec<Vec<usize>>) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut graph = Graph::new();
    let rank = rng.random_range(2..5);
    let mut shape: Vec<usize> = (0..rank).map(|_| *[1, 2, 3, 4, 6, 8].choose(&mut rng).unwrap()).collect();
    if seed.is_multiple_of(4) {
        shape[0] = 700; // many rows, or long ones, which pieces of work share
    }
    let mut shapes = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for i in 0..4 {
        let own: Vec<_> = shape.iter().map(|size| if i > 0 && rng.random_bool(0.4) { 1 } else { *size }).collect();
        values.push(graph.input(&format!("x{i}"), TensorType::f32(own.clone())));
        shapes.push(own);
    }
    for _ in 0..rng.random_range(6..30) {
        let x = *values.choose(&mut rng).unwrap();
        let own = graph.shape(x).to_vec();
        let axis = rng.random_range(0..own.len());
        let y = match rng.random_range(0..16) {
            0 => graph.sigmoid(x),
            1 => graph.tanh(x),
            2 => graph.relu(x),
            3 => graph.reduce_sum(x, &[axis], true),
            4 => {
                let axes: Vec<_> = (0..own.len()).filter(|_| rng.random_bool(0.6)).collect();
                graph.reduce_mean(x, &axes, true)
            }
            5 => graph.reduce_max(x, &[axis], true),
            6 => {
                // There and back again, with something between.
                let mut order: Vec<_> = (0..own.len()).collect();
                order.rotate_left(axis);
                let mut back = order.clone();
                order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
                let turned = graph.transpose(x, &order);
                let bent = graph.tanh(turned);
                graph.transpose(bent, &back)
            }
            7 => {
                let flat = graph.reshape(x, &[own.iter().product()]);
                let bent = graph.abs(flat);
                graph.reshape(bent, &own)
            }
            8 => {
                let to = if rng.random_bool(0.5) { DType::F16 } else { DType::BF16 };
                let half = graph.cast(x, to);
                graph.to_f32(half)
            }
            9 => {
                let zero = graph.scalar(0.1);
                let above = graph.greater(x, zero);
                let other = graph.scalar(-1.5);
                graph.select(above, x, other)
            }
            10 if own != shape => graph.expand(x, &shape),
            10 => {
                let piece = graph.slice(x, axis, own[axis] - 1, own[axis]);
                graph.sub(x, piece)
            }
            11 => {
                let size = own[axis];
                let parts = graph.split(x, axis, &[size / 2, size - size / 2]);
                graph.concat(&[parts[1], parts[0]], axis)
            }
            12 => {
                let padded = graph.pad(x, axis, 1, 2);
                graph.slice(padded, axis, 1, 1 + own[axis])
            }
            _ => {
                let other = *values.choose(&mut rng).unwrap();
                let operator = [Graph::add, Graph::sub, Graph::mul, Graph::max].choose(&mut rng).unwrap();
                operator(&mut graph, x, other)
            }
        };
        values.push(y);
    }
    let some: Vec<_> = values[4..].choose_multiple(&mut rng, 4).copied().collect();
    some.into_iter().chain(values.last().copied()).enumerate().for_each(|(i, y)| graph.output(&format!("y{i}"), y));
    (graph, shapes)
}

fn run(mut graph: Graph, kernels: Kernels, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    let onnx = to_onnx(&graph, &[], &ModelInfo::default());
    let library = runtime::load(None).unwrap();
    let mut session = Session::new(&library, Provider::Cpu, &onnx).unwrap();
    let used: Vec<_> = session.inputs().into_iter().map(|input| input.name).collect();
    let given: Vec<_> = inputs.iter().filter(|(name, _)| used.contains(name)).map(|(n, x)| (n.as_str(), x)).collect();
    session.run(&given).unwrap()
}

#[test]
fn random_graphs_compute_the_same_as_regions() {
    let count = std::env::var("EMG_REGIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(250);
    let mut regions = 0;
    for seed in 0..count {
        let (graph, shapes) = random_graph(seed);
        let inputs: Vec<_> = shapes
            .into_iter()
            .enumerate()
            .map(|(i, shape)| {
                let values = noise(seed * 7 + i as u64, shape.iter().product()).collect();
                (format!("x{i}"), Tensor::new(shape, values))
            })
            .collect();
        let mut as_regions = graph.clone();
        select_kernels(&mut as_regions, Kernels::Cuda);
        regions += as_regions.nodes().iter().filter(|node| node.operator.name == "Region").count();
        let expected = run(graph.clone(), Kernels::Standard, &inputs);
        for kernels in [Kernels::Cpu, Kernels::Cuda] {
            let found = run(graph.clone(), kernels, &inputs);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.shape, expected.shape);
                let scale = expected.values.iter().fold(1.0f32, |most, x| most.max(x.abs()));
                for (found, expected) in found.values.iter().zip(&expected.values) {
                    // Sums in another order may fall on the other side of a step of half precision.
                    let near = (found - expected).abs() <= 2e-2 * scale || found.is_nan() && expected.is_nan();
                    assert!(near, "seed {seed}, {kernels:?}, output {i}: {found}, not {expected}");
                }
            }
        }
    }
    assert!(regions > count as usize, "{regions} regions");
}
