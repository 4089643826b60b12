//! Both ways of computing a convolution and its gradients against the definition, in float64.

use proptest::prelude::*;

use super::*;
use crate::graph::Attribute;

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    groups: usize,
    own: usize,
    each: usize,
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
        let Case { batch, groups, own, each, .. } = *self;
        let input: Vec<_> = self.axes.iter().map(|axis| axis[0]).collect();
        let output = geometry.output(&input);
        let (whole, plane, taps): (usize, usize, usize) =
            (input.iter().product(), output.iter().product(), geometry.taps());
        for place in 0..plane {
            for tap in 0..taps {
                let at = geometry.under(&unravel(place, &output), &unravel(tap, &geometry.kernel), &input);
                let Some(at) = at else { continue };
                for example in 0..batch {
                    for channel in 0..groups * each {
                        for i in 0..own {
                            let from = example * groups * own + channel / each * own + i;
                            let to = example * groups * each + channel;
                            take(from * whole + at, (channel * own + i) * taps + tap, to * plane + place);
                        }
                    }
                }
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let axis = (1..24usize, 1..5usize, 1..4usize, 1..4usize, 0..4usize, 0..4usize);
    let axis = axis.prop_map(|(extra, kernel, stride, dilation, before, after)| {
        let span = (kernel - 1) * dilation + 1;
        let least = span.saturating_sub(before + after).max(1);
        [least + extra - 1, kernel, stride, dilation, before, after]
    });
    let axes = prop::collection::vec(axis, 1..3);
    (1..3usize, 1..4usize, 1..9usize, 1..20usize, axes).prop_map(|(batch, groups, own, each, axes)| Case {
        batch,
        groups,
        own,
        each,
        axes,
    })
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

fn input<'a>(shape: &'a [usize], values: &'a [f32]) -> Input<'a> {
    Input { shape, values, integers: &[] }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let (geometry, workers) = (case.geometry(), Workers::alone());
    let Case { batch, groups, own, each, .. } = *case;
    let sizes: Vec<_> = case.axes.iter().map(|axis| axis[0]).collect();
    let output = geometry.output(&sizes);
    let shaped = |first: [usize; 2], rest: &[usize]| [&first[..], rest].concat();
    let shapes = [
        shaped([batch, groups * own], &sizes),
        shaped([groups * each, own], &geometry.kernel),
        shaped([batch, groups * each], &output),
    ];
    let [x, w, dy] = [0, 1, 2].map(|i| values(shapes[i].iter().product(), i));
    let bias = values(groups * each, 3);
    let plane: usize = output.iter().product();
    let mut y: Vec<_> = (0..dy.len()).map(|i| f64::from(bias[i / plane % (groups * each)])).collect();
    let (mut dx, mut dw) = (vec![0.0f64; x.len()], vec![0.0f64; w.len()]);
    case.each_product(&geometry, |at, tap, place| {
        y[place] += f64::from(x[at]) * f64::from(w[tap]);
        dx[at] += f64::from(dy[place]) * f64::from(w[tap]);
        dw[tap] += f64::from(dy[place]) * f64::from(x[at]);
    });
    let channels = Channels { groups, own, each };
    // What was there before must not matter.
    for (name, output) in
        [("lines", lines::output as fn(&_, _, _, &_, _, &mut _, &_) -> _), ("products", products::output)]
    {
        let mut made = vec![f32::NAN; y.len()];
        output(&geometry, channels, input(&shapes[0], &x), &w, Some(&bias), &mut made, &workers).unwrap();
        agree(&format!("y by {name}"), &made, &y)?;
    }
    let by: [(&str, _, _); 2] = [
        (
            "lines",
            lines::input_gradient as fn(&_, _, &_, _, &_, &mut _, &_) -> _,
            lines::weight_gradient as fn(&_, _, _, _, &mut _, &_) -> _,
        ),
        ("products", products::input_gradient, products::weight_gradient),
    ];
    for (name, input_gradient, weight_gradient) in by {
        let mut made = vec![f32::NAN; x.len()];
        input_gradient(&geometry, channels, &sizes, input(&shapes[2], &dy), &w, &mut made, &workers).unwrap();
        agree(&format!("dx by {name}"), &made, &dx)?;
        let mut made = vec![f32::NAN; w.len()];
        weight_gradient(&geometry, channels, input(&shapes[0], &x), input(&shapes[2], &dy), &mut made, &workers)
            .unwrap();
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
    for (own, each, axes) in [
        (3, 130, vec![[1400, 5, 1, 2, 3, 4]]),
        (70, 9, vec![[1100, 5, 2, 1, 2, 2]]),
        (5, 20, vec![[70, 3, 1, 1, 1, 1], [40, 2, 2, 1, 0, 1]]),
    ] {
        check(&Case { batch: 2, groups: 1, own, each, axes }).unwrap();
    }
}
