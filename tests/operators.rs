//! Every operator's gradient against central differences, through the library itself: forward in float32, so
//! differences are taken with a large step and compared with a tolerance that float32 allows.

use std::collections::BTreeSet;

use emg_pipeline::graph::{Graph, Kernels, ModelInfo, TensorType, Value, gradients, prune, select_kernels, to_onnx};
use emg_pipeline::model::{Dropout, Interpolate, align_corners, half_pixel};
use emg_pipeline::ports::{Port, StepPorts, Values};
use emg_pipeline::random::Random;
use emg_pipeline::runtime::{self, Provider, Session, Tensor};
use proptest::prelude::*;

type Build<'a> = &'a dyn Fn(&mut Graph, &[Value]) -> Value;

/// Values away from the kinks of Abs and Relu, and, between seeds of different parity, of Max and comparisons.
fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut random = Random::new(&[seed]);
    let value = |random: &mut Random| {
        let magnitude = 0.3 + random.up_to(9) as f32 / 10.0 + (seed % 2) as f32 / 20.0;
        if random.up_to(1) == 0 { magnitude } else { -magnitude }
    };
    Tensor::new(shape, (0..shape.iter().product()).map(|_| value(&mut random)).collect())
}

fn session(graph: &Graph) -> Session {
    let library = runtime::load(None).unwrap();
    Session::new(&library, Provider::Cpu, &to_onnx(graph, &[], &ModelInfo::default())).unwrap()
}

/// Checks the gradient of sum(weights x build(inputs)) with respect to every input. Gives the operators it used.
fn check(shapes: &[&[usize]], seed: u64, build: Build<'_>) -> BTreeSet<&'static str> {
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| noise(seed * 31 + i as u64, shape)).collect();
    check_at(inputs, seed, build)
}

fn check_at(mut inputs: Vec<Tensor>, seed: u64, build: Build<'_>) -> BTreeSet<&'static str> {
    let names: Vec<_> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let mut graph = Graph::new();
    let values: Vec<_> =
        names.iter().zip(&inputs).map(|(n, t)| graph.input(n, TensorType::f32(t.shape.clone()))).collect();
    let y = build(&mut graph, &values);
    let shape = graph.shape(y).to_vec();
    let weights = graph.f32(shape.clone(), noise(seed + 1000, &shape).values);
    let weighted = graph.mul(y, weights);
    let loss = graph.sum_all(weighted);
    graph.output("loss", loss);
    let used = graph.nodes().iter().map(|node| node.operator.name).collect();
    let mut forward_graph = graph.clone();
    prune(&mut forward_graph);
    let mut forward = session(&forward_graph);
    let gradients = gradients(&mut graph, loss, &values).unwrap();
    for ((name, gradient), value) in names.iter().zip(&gradients).zip(&values) {
        let gradient = gradient.unwrap_or_else(|| {
            let shape = graph.shape(*value).to_vec();
            graph.zeros(*value, &shape)
        });
        graph.output(&format!("d{name}"), gradient);
    }
    prune(&mut graph);
    let mut standard = graph.clone();
    select_kernels(&mut standard, Kernels::Standard);
    prune(&mut standard);
    assert!(standard.nodes().iter().all(|node| node.operator.domain.is_empty()));
    let mut backward = session(&standard);
    let run = |session: &mut Session, inputs: &[Tensor]| {
        let named: Vec<_> = names.iter().map(String::as_str).zip(inputs).collect();
        session.run(&named).unwrap()
    };
    let found = run(&mut backward, &inputs);
    for (standard, fused) in found.iter().zip(run(&mut session(&graph), &inputs)) {
        assert_close(standard, &fused);
    }
    let largest = found[1..].iter().flat_map(|t| &t.values).fold(0.0f32, |m, v| m.max(v.abs()));
    const STEP: f32 = 1e-2;
    for i in 0..inputs.len() {
        assert_eq!(found[i + 1].shape, inputs[i].shape);
        for j in 0..inputs[i].values.len() {
            let at = inputs[i].values[j];
            let mut loss_at = |value: f32| {
                inputs[i].values[j] = value;
                f64::from(run(&mut forward, &inputs)[0].values[0])
            };
            let difference = (loss_at(at + STEP) - loss_at(at - STEP)) / (2.0 * f64::from(STEP));
            inputs[i].values[j] = at;
            let gradient = f64::from(found[i + 1].values[j]);
            let off = (gradient - difference).abs();
            assert!(
                off <= 5e-3 * f64::from(largest.max(1.0)),
                "input {i} element {j}: {gradient}, difference {difference}"
            );
        }
    }
    used
}

/// Equal up to float32 rounding.
fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape, b.shape);
    let scale = a.values.iter().fold(1.0f32, |most, value| most.max(value.abs()));
    // One by one, so that a NaN is no match.
    for (i, (a, b)) in a.values.iter().zip(&b.values).enumerate() {
        assert!((a - b).abs() <= 1e-5 * scale, "{a} and {b} at {i}, scale {scale}");
    }
}

#[test]
fn gradients_equal_differences() {
    let mut used = BTreeSet::new();
    let mut case = |shapes: &[&[usize]], build: Build<'_>| {
        for seed in 1..=2 {
            used.extend(check(shapes, seed, build));
        }
    };
    case(&[&[3, 4]], &|g, x| g.abs(x[0]));
    case(&[&[3, 4]], &|g, x| g.neg(x[0]));
    case(&[&[3, 4]], &|g, x| g.relu(x[0]));
    case(&[&[3, 4]], &|g, x| g.leaky_relu(x[0], 0.1));
    case(&[&[3, 4]], &|g, x| g.sigmoid(x[0]));
    case(&[&[3, 4]], &|g, x| g.tanh(x[0]));
    case(&[&[3, 4]], &|g, x| {
        let positive = g.abs(x[0]);
        g.sqrt(positive)
    });
    case(&[&[2, 3], &[3]], &|g, x| g.add(x[0], x[1]));
    case(&[&[2, 3], &[2, 1]], &|g, x| g.sub(x[0], x[1]));
    case(&[&[2, 1, 3], &[4, 1]], &|g, x| g.mul(x[0], x[1]));
    case(&[&[2, 3], &[3]], &|g, x| g.div(x[0], x[1]));
    case(&[&[2, 3], &[3]], &|g, x| g.max(x[0], x[1]));
    case(&[&[2, 3], &[3]], &|g, x| g.min(x[0], x[1]));
    case(&[&[2, 3], &[2, 3], &[3]], &|g, x| {
        let condition = g.less(x[0], x[1]);
        g.select(condition, x[1], x[2])
    });
    case(&[&[3, 4], &[4, 2], &[2]], &|g, x| g.gemm(x[0], x[1], Some(x[2]), false, false));
    case(&[&[3, 4], &[2, 4], &[3, 2]], &|g, x| g.gemm(x[0], x[1], Some(x[2]), false, true));
    case(&[&[4, 3], &[4, 2]], &|g, x| g.gemm(x[0], x[1], None, true, false));
    case(&[&[4, 3], &[2, 4]], &|g, x| g.gemm(x[0], x[1], None, true, true));
    case(&[&[2, 3, 4], &[4, 2]], &|g, x| g.matmul(x[0], x[1]));
    case(&[&[2, 3, 4], &[2, 4, 2]], &|g, x| g.matmul(x[0], x[1]));
    case(&[&[3, 4], &[2, 4, 2]], &|g, x| g.matmul(x[0], x[1]));
    case(&[&[2, 3, 4], &[5, 4], &[5]], &|g, x| g.linear(x[0], x[1], Some(x[2])));
    case(&[&[2, 3, 9], &[4, 3, 3], &[4]], &|g, x| g.conv(x[0], x[1], Some(x[2]), &[1]));
    case(&[&[2, 3, 10], &[4, 3, 3]], &|g, x| g.conv(x[0], x[1], None, &[2]));
    case(&[&[2, 2, 9], &[40, 2, 2]], &|g, x| g.conv(x[0], x[1], None, &[1]));
    case(&[&[2, 2, 11], &[3, 2, 2]], &|g, x| g.conv(x[0], x[1], None, &[4]));
    case(&[&[2, 2, 3, 9], &[2, 2, 1, 5], &[2]], &|g, x| g.conv(x[0], x[1], Some(x[2]), &[1, 1]));
    case(&[&[2, 3, 5], &[5], &[5]], &|g, x| g.layer_norm(x[0], x[1], x[2]));
    case(&[&[2, 3, 4]], &|g, x| g.reduce_sum(x[0], &[1], true));
    case(&[&[2, 3, 4]], &|g, x| g.reduce_mean(x[0], &[0, 2], false));
    case(&[&[2, 3]], &|g, x| g.sum_rows(x[0]));
    case(&[&[2, 6]], &|g, x| g.reshape(x[0], &[3, 4]));
    case(&[&[2, 3, 4]], &|g, x| g.transpose(x[0], &[2, 0, 1]));
    case(&[&[2, 3], &[2, 2]], &|g, x| g.concat(&[x[0], x[1]], 1));
    case(&[&[2, 7]], &|g, x| {
        let parts = g.split(x[0], 1, &[2, 4, 1]);
        g.mul(parts[0], parts[2])
    });
    case(&[&[5, 4]], &|g, x| g.slice(x[0], 0, 1, 4));
    case(&[&[8, 3]], &|g, x| g.strided_slice(x[0], 0, 1, 8, 3));
    case(&[&[2, 3]], &|g, x| g.pad(x[0], 1, 2, 1));
    case(&[&[2, 1]], &|g, x| g.expand(x[0], &[3, 2, 4]));
    for by in [Interpolate::Product, Interpolate::Gather] {
        case(&[&[2, 7, 3]], &|g, x| align_corners(g, by, x[0], 4));
        case(&[&[2, 3, 2]], &|g, x| half_pixel(g, by, x[0], 8));
    }
    // The same weight twice: its products and row sums are pooled.
    case(&[&[3, 4], &[4, 4], &[4]], &|g, x| {
        let once = g.linear(x[0], x[1], Some(x[2]));
        let once = g.tanh(once);
        g.linear(once, x[1], Some(x[2]))
    });
    for expected in ["Abs", "Conv", "Gemm", "LayerNormalization", "MatMul", "Max", "Pad", "Slice", "Split", "Where"] {
        assert!(used.contains(expected), "{expected} was not tested");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn broadcasting(shape in prop::collection::vec(1..4usize, 1..4), mask in 0..64usize, drop in 0..3usize, op in 0..4usize) {
        // b has some of a's axes as 1 and perhaps fewer axes.
        let b: Vec<_> = shape.iter().enumerate().map(|(i, dim)| if mask & (1 << i) == 0 { *dim } else { 1 }).collect();
        let b = &b[drop.min(b.len() - 1)..];
        check(&[&shape, b], 3, &|g, x| match op {
            0 => g.add(x[0], x[1]),
            1 => g.mul(x[0], x[1]),
            2 => g.div(x[0], x[1]),
            _ => g.sub(x[1], x[0]),
        });
    }

    #[test]
    fn convolutions(batch in 1..3usize, inputs in 1..4usize, outputs in 1..5usize, kernel in 1..6usize, stride in 1..4usize, more in 0..9usize) {
        check(&[&[batch, inputs, kernel + more], &[outputs, inputs, kernel], &[outputs]], 5, &|g, x| g.conv(x[0], x[1], Some(x[2]), &[stride]));
    }
}

/// Fused kernels, with more than one piece of work each, against the standard operators they stand for.
#[test]
fn fused_operators_equal_standard_ones() {
    let orders: [&[usize]; 7] =
        [&[0, 2, 3, 1], &[0, 3, 1, 2], &[0, 1, 3, 2], &[3, 0, 1, 2], &[1, 2, 3, 0], &[0, 2, 1, 3], &[3, 2, 1, 0]];
    let mut used = BTreeSet::new();
    for (shape, order) in [[3, 101, 8, 9], [2, 40, 17, 33], [1, 300, 5, 16]].iter().flat_map(|s| orders.map(|o| (s, o)))
    {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32(*shape));
        let n = shape[order[3]];
        let (scale, bias) = (graph.input("scale", TensorType::f32([n])), graph.input("bias", TensorType::f32([n])));
        let turned = graph.transpose(x, order);
        let normal = graph.layer_norm(turned, scale, bias);
        let positive = graph.relu(normal);
        let weights = graph.f32(graph.shape(positive).to_vec(), noise(9, graph.shape(positive)).values);
        let product = graph.mul(positive, weights);
        let loss = graph.sum_all(product);
        // With and without a gradient of x, which leaves an output of the fused operator unused.
        let wanted = if shape[0] == 3 { vec![scale, bias] } else { vec![scale, bias, x] };
        let gradients = gradients(&mut graph, loss, &wanted).unwrap().into_iter().map(Option::unwrap);
        for (name, value) in ["y", "dscale", "dbias", "dx"].into_iter().zip([normal].into_iter().chain(gradients)) {
            graph.output(name, value);
        }
        let inputs = [noise(1, shape), noise(2, &[n]), noise(3, &[n])];
        let [standard, fused] = [Kernels::Standard, Kernels::Cpu].map(|kernels| {
            let mut graph = graph.clone();
            select_kernels(&mut graph, kernels);
            prune(&mut graph);
            if kernels == Kernels::Cpu {
                used.extend(graph.nodes().iter().filter(|n| !n.operator.domain.is_empty()).map(|n| n.operator.name));
            }
            session(&graph).run(&[("x", &inputs[0]), ("scale", &inputs[1]), ("bias", &inputs[2])]).unwrap()
        });
        for (standard, fused) in standard.iter().zip(&fused) {
            assert_close(standard, fused);
        }
    }
    assert_eq!(
        used.into_iter().collect::<Vec<_>>(),
        ["BatchTranspose", "LayerNorm", "LayerNormGradient", "ReluGradient"]
    );
}

/// Many frames, as a convolution over a long signal has them; by products of matrices where there are many channels.
#[test]
fn weight_gradients_of_long_convolutions_are_the_same_by_fused_operators() {
    for (shape, kernel, stride, by) in [
        ([3, 8, 2, 900], [8, 8, 1, 21], 1, "Frames"),
        ([2, 16, 1, 1500], [40, 16, 1, 5], 2, "ConvolutionWeightGradient"),
    ] {
        let mut graph = Graph::new();
        let (x, weight) = (graph.input("x", TensorType::f32(shape)), graph.input("w", TensorType::f32(kernel)));
        let y = graph.conv(x, weight, None, &[1, stride]);
        let weights = graph.f32(graph.shape(y).to_vec(), noise(7, graph.shape(y)).values);
        let product = graph.mul(y, weights);
        let loss = graph.sum_all(product);
        let gradient = gradients(&mut graph, loss, &[weight]).unwrap()[0].unwrap();
        graph.output("dw", gradient);
        let inputs = [noise(1, &shape), noise(2, &kernel)];
        let [standard, fused] = [Kernels::Standard, Kernels::Cpu].map(|kernels| {
            let mut graph = graph.clone();
            select_kernels(&mut graph, kernels);
            prune(&mut graph);
            let uses = graph.nodes().iter().any(|node| node.operator.name == by);
            assert_eq!(uses, kernels == Kernels::Cpu);
            session(&graph).run(&[("x", &inputs[0]), ("w", &inputs[1])]).unwrap()
        });
        assert_close(&standard[0], &fused[0]);
    }
}

/// By a convolution with the weight back to front, or with so many taps by products of matrices.
#[test]
fn input_gradients_of_convolutions_are_the_same_by_fused_operators() {
    for (shape, kernel, fused) in [([2, 3, 40, 37], [4, 3, 5, 4], false), ([1, 4, 70, 60], [20, 4, 35, 33], true)] {
        let mut graph = Graph::new();
        let (x, weight) = (graph.input("x", TensorType::f32(shape)), graph.input("w", TensorType::f32(kernel)));
        let y = graph.conv(x, weight, None, &[1, 1]);
        let weights = graph.f32(graph.shape(y).to_vec(), noise(7, graph.shape(y)).values);
        let product = graph.mul(y, weights);
        let loss = graph.sum_all(product);
        let gradient = gradients(&mut graph, loss, &[x]).unwrap()[0].unwrap();
        graph.output("dx", gradient);
        let inputs = [noise(1, &shape), noise(2, &kernel)];
        let [standard, on_cpu] = [Kernels::Standard, Kernels::Cpu].map(|kernels| {
            let mut graph = graph.clone();
            select_kernels(&mut graph, kernels);
            prune(&mut graph);
            let uses = graph.nodes().iter().any(|node| node.operator.name == "ConvolutionInputGradient");
            assert_eq!(uses, fused && kernels == Kernels::Cpu);
            session(&graph).run(&[("x", &inputs[0]), ("w", &inputs[1])]).unwrap()
        });
        assert_close(&standard[0], &on_cpu[0]);
    }
}

#[test]
fn an_operator_without_gradient_is_named() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2]));
    let y = graph.modulo(x, x);
    let loss = graph.sum_all(y);
    assert!(gradients(&mut graph, loss, &[x]).unwrap_err().to_string().contains("Mod"));
    assert!(gradients(&mut graph, y, &[x]).unwrap_err().to_string().contains("scalar"));
}

#[test]
fn wide_concats_and_splits_become_trees() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([100]));
    let parts = graph.split(x, 0, &[1; 100]);
    let joined = graph.concat(&parts.iter().rev().copied().collect::<Vec<_>>(), 0);
    graph.output("y", joined);
    assert!(graph.nodes().iter().all(|node| node.inputs.len() <= 32 && node.outputs.len() <= 32));
    let input = Tensor::new([100], (0..100).map(|i| i as f32).collect());
    let reversed: Vec<_> = (0..100).rev().map(|i| i as f32).collect();
    assert_eq!(session(&graph).run(&[("x", &input)]).unwrap()[0].values, reversed);
}

#[test]
fn dropout_masks_repeat_for_their_seeds_and_drop_their_share() {
    let mut graph = Graph::new();
    let mut dropout = Dropout::new(&mut graph, "random", 0.3);
    let masks: Vec<_> = (0..2).flat_map(|_| dropout.masks(&mut graph, 5, 40, 50)).collect();
    let joined = graph.concat(&masks, 0);
    graph.output("y", joined);
    let ports = StepPorts {
        controls: vec![Port::i64("random", [Dropout::SEEDS])],
        results: vec![Port::f32("y", [400, 50])],
        ..Default::default()
    };
    let library = runtime::load(None).unwrap();
    let onnx = to_onnx(&graph, &[], &ModelInfo::default());
    let mut stepper = runtime::Stepper::new(&library, Provider::Cpu, &onnx, ports).unwrap();
    let mut run =
        |seeds: [i64; 2]| stepper.step(&[], &[("random", Values::I64(&seeds))], |step| step.get("y").to_vec()).unwrap();
    let (a, b, c) = (run([123_456, 7]), run([123_456, 7]), run([123_457, 7]));
    assert_eq!(a, b);
    let agree = |x: &[f32], y: &[f32]| x.iter().zip(y).filter(|(x, y)| x == y).count() as f64 / x.len() as f64;
    // Independent masks agree with probability 0.7^2 + 0.3^2.
    assert!((agree(&a, &c) - 0.58).abs() < 0.02, "{}", agree(&a, &c));
    for (i, mask) in a.chunks(2000).enumerate() {
        let dropped = mask.iter().filter(|value| **value == 0.0).count() as f64 / 2000.0;
        assert!((dropped - 0.3).abs() < 0.05, "mask {i} drops {dropped}");
        assert!(mask.iter().all(|value| *value == 0.0 || (*value - 1.0 / 0.7).abs() < 1e-6));
        for other in a.chunks(2000).skip(i + 1) {
            assert!((agree(mask, other) - 0.58).abs() < 0.06, "masks are alike: {}", agree(mask, other));
        }
    }
}
