//! Both ways of computing a convolution and its gradients against the definition, in float64.

use proptest::prelude::*;

use super::*;
use crate::graph::Attribute;

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    groups: usize,
    inputs: usize,
    outputs: usize,
    /// Of each axis: input size, kernel, stride, dilation, padding before and after.
    axes: Vec<[usize; 6]>,
}

impl Case {
    fn geometry(&self) -> Geometry {
        let list = |i: usize| Attribute::Ints(self.axes.iter().map(|axis| axis[i] as i64).collect());
        let pads = (4..6).flat_map(|i| self.axes.iter().map(move |axis| axis[i] as i64)).collect();
        let attributes = [
            ("kernel_shape", list(1)),
            ("strides", list(2)),
            ("dilations", list(3)),
            ("pads", Attribute::Ints(pads)),
            ("group", Attribute::Int(self.groups as i64)),
        ];
        Geometry::new(&attributes.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// Elements of x, w and y that a product has in common.
    fn each_product(&self, geometry: &Geometry, mut take: impl FnMut(usize, usize, usize)) {
        let Case { batch, groups, inputs, outputs, .. } = *self;
        let input: Vec<_> = self.axes.iter().map(|axis| axis[0]).collect();
        let output = geometry.output(&input);
        let (whole, plane, taps): (usize, usize, usize) =
            (input.iter().product(), output.iter().product(), geometry.taps());
        for place in 0..plane {
            for tap in 0..taps {
                let at = geometry.under(&unravel(place, &output), &unravel(tap, &geometry.kernel), &input);
                let Some(at) = at else { continue };
                for example in 0..batch {
                    for channel in 0..groups * outputs {
                        for i in 0..inputs {
                            let from = example * groups * inputs + channel / outputs * inputs + i;
                            let to = example * groups * outputs + channel;
                            take(from * whole + at, (channel * inputs + i) * taps + tap, to * plane + place);
                        }
                    }
                }
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let axis = |largest: usize| {
        let axis = (1..largest, 1..5usize, 1..4usize, 1..4usize, 0..4usize, 0..4usize);
        axis.prop_map(|(extra, kernel, stride, dilation, before, after)| {
            let span = (kernel - 1) * dilation + 1;
            let least = span.saturating_sub(before + after).max(1);
            [least + extra - 1, kernel, stride, dilation, before, after]
        })
    };
    let plane = prop::collection::vec(axis(24), 1..3);
    let volume = prop::collection::vec(axis(4), 3);
    (1..3usize, 1..4usize, 1..9usize, 1..20usize, prop_oneof![4 => plane, 1 => volume])
        .prop_map(|(batch, groups, inputs, outputs, axes)| Case { batch, groups, inputs, outputs, axes })
}

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
}

fn agree(what: &str, made: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    let largest = expected.iter().fold(1e-3f64, |largest, value| largest.max(value.abs()));
    for (i, (made, expected)) in made.iter().zip(expected).enumerate() {
        prop_assert!((f64::from(*made) - expected).abs() <= 1e-5 * largest, "{what} {i}: {made} instead of {expected}");
    }
    Ok(())
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let (geometry, workers) = (case.geometry(), Workers::alone());
    let Case { batch, groups, inputs, outputs, .. } = *case;
    let sizes: Vec<_> = case.axes.iter().map(|axis| axis[0]).collect();
    let output = geometry.output(&sizes);
    let shaped = |first: [usize; 2], rest: &[usize]| [&first[..], rest].concat();
    let shapes = [
        shaped([batch, groups * inputs], &sizes),
        shaped([groups * outputs, inputs], &geometry.kernel),
        shaped([batch, groups * outputs], &output),
    ];
    let [x, w, dy] = [0, 1, 2].map(|i| values(shapes[i].iter().product(), i));
    let bias = values(groups * outputs, 3);
    let plane: usize = output.iter().product();
    let mut y: Vec<_> = (0..dy.len()).map(|i| f64::from(bias[i / plane % (groups * outputs)])).collect();
    let (mut dx, mut dw) = (vec![0.0f64; x.len()], vec![0.0f64; w.len()]);
    case.each_product(&geometry, |at, tap, place| {
        y[place] += f64::from(x[at]) * f64::from(w[tap]);
        dx[at] += f64::from(dy[place]) * f64::from(w[tap]);
        dw[tap] += f64::from(dy[place]) * f64::from(x[at]);
    });
    let plan = Plan::new(&geometry, [&shapes[0], &shapes[2]].map(|shape| shape[1..].to_vec()));
    // What was there before must not matter.
    let filled = |size: usize| vec![f32::NAN; size];
    let outputs: [(_, fn(&_, &_, &_, _, &mut _, &_) -> _); 2] =
        [("lines", lines::output), ("products", products::output)];
    for (name, output) in outputs {
        let mut made = filled(y.len());
        output(&plan, &x, &w, Some(&bias), &mut made, &workers).unwrap();
        agree(&format!("y by {name}"), &made, &y)?;
    }
    let gradients: [(_, fn(&_, &_, &_, &mut _, &_) -> _); 2] =
        [("lines", lines::input_gradient), ("products", products::input_gradient)];
    for (name, gradient) in gradients {
        let mut made = filled(x.len());
        gradient(&plan, &dy, &w, &mut made, &workers).unwrap();
        agree(&format!("dx by {name}"), &made, &dx)?;
    }
    let gradients: [(_, fn(&_, _, _, &mut _, &_) -> _); 2] =
        [("lines", lines::weight_gradient), ("products", products::weight_gradient)];
    for (name, gradient) in gradients {
        let mut made = filled(w.len());
        gradient(&plan, batch, [&x, &dy], &mut made, &workers).unwrap();
        agree(&format!("dw by {name}"), &made, &dw)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn convolutions_are_those_of_the_definition(case in cases()) {
        check(&case)?;
    }
}

/// Beyond a tile, a piece and the taps that are taken at once.
#[test]
fn large_convolutions_are_those_of_the_definition() {
    for (inputs, outputs, axes) in [
        (3, 130, vec![[1400, 5, 1, 2, 3, 4]]),
        (70, 9, vec![[1100, 5, 2, 1, 2, 2]]),
        (5, 20, vec![[70, 3, 1, 1, 1, 1], [40, 2, 2, 1, 0, 1]]),
    ] {
        check(&Case { batch: 2, groups: 1, inputs, outputs, axes }).unwrap();
    }
}
