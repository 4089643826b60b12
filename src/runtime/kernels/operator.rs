//! What a fused operator is, and how one runs on the CPU: as a function over slices.

use std::sync::Mutex;

use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::{Shape, TensorElementType, ValueRef, ValueType};

use super::adam::Adam;
use super::cuda::Launch;
use super::pool::Axis;

/// Runs `work(piece)` on ONNX Runtime's own threads, each piece once.
pub(super) struct Workers<'a> {
    context: &'a ComputeContext,
}

impl Workers<'_> {
    pub(super) fn each<P: Send>(&self, pieces: Vec<P>, work: impl Fn(P) + Sync + Send) -> Result<(), String> {
        let pieces: Vec<_> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
        let run = |i: usize| {
            // Each piece is asked for once, so nobody waits here.
            let piece = pieces[i].lock().ok().and_then(|mut piece| piece.take());
            if let Some(piece) = piece {
                work(piece);
            }
        };
        // Automatic batching: 0.
        self.context.par_for(pieces.len(), 0, run).map_err(|error| error.to_string())
    }
}

/// A tensor given to a kernel.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) shape: &'a [usize],
    /// Elements of a float32 tensor.
    pub(super) values: &'a [f32],
    /// Elements of an int64 tensor.
    pub(super) integers: &'a [i64],
}

/// Attributes a kernel may have.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) epsilon: f32,
    pub(super) order: Vec<i64>,
    /// Advance, length and count of frames.
    pub(super) framing: [usize; 3],
    /// Of pools: how windows lie along each axis.
    pub(super) window: Vec<Axis>,
    pub(super) adam: Adam,
    /// Of random masks.
    pub(super) modulus: i64,
    pub(super) threshold: i64,
    pub(super) scale: f32,
    /// Of a rectifier's negative side.
    pub(super) slope: f32,
}

impl Settings {
    pub(super) fn of(context: &KernelContext<'_>) -> Self {
        Self::new(|name| context.get(name), |name| context.get(name), |name| context.get(name))
    }

    fn new(
        ints: impl Fn(&str) -> Option<Vec<i64>>,
        int: impl Fn(&str) -> Option<i64>,
        float: impl Fn(&str) -> Option<f32>,
    ) -> Self {
        let sizes = |name| ints(name).unwrap_or_default().into_iter().map(|size| size.max(0) as usize);
        let steps = sizes("strides").zip(sizes("dilations")).zip(sizes("pads"));
        let window = sizes("kernel_shape")
            .zip(steps)
            .map(|(kernel, ((stride, dilation), before))| Axis { kernel, stride, dilation, before })
            .collect();
        let order = ints("perm").unwrap_or_default();
        let framing = ["advance", "length", "count"].map(|name| int(name).unwrap_or_default() as usize);
        let [modulus, threshold] = ["modulus", "threshold"].map(|name| int(name).unwrap_or_default());
        let (epsilon, scale) = (float("epsilon").unwrap_or(1e-5), float("scale").unwrap_or(1.0));
        let slope = float("slope").unwrap_or(0.0);
        let pair = |names: [&str; 2]| names.map(|name| float(name).unwrap_or_default());
        let decoupled = int("decoupled").is_some_and(|flag| flag != 0);
        let adam = Adam { keep: pair(["keep1", "keep2"]), take: pair(["take1", "take2"]), decoupled };
        Self { epsilon, order, framing, window, adam, modulus, threshold, scale, slope }
    }
}

/// Shapes of the outputs, from those of the inputs.
pub(super) type Shapes = fn(&[Vec<usize>], &Settings) -> Result<Vec<Vec<usize>>, String>;
/// Fills the outputs, which have those shapes.
pub(super) type Compute = fn(&[Input<'_>], &Settings, &mut [&mut [f32]], &Workers<'_>) -> Result<(), String>;
/// How the kernel in cuda.cu is started, for inputs of these shapes.
pub(super) type Start = fn(&[Vec<usize>], &Settings) -> Launch;

/// A fused operator that gives float32 tensors.
#[derive(Clone, Copy)]
pub(super) struct Fused {
    pub(super) name: &'static str,
    pub(super) inputs: usize,
    /// Further inputs that may be there, behind the others.
    pub(super) more_inputs: usize,
    /// Whether it takes int64 tensors instead of float32 ones.
    pub(super) takes_integers: bool,
    pub(super) outputs: usize,
    pub(super) shapes: Shapes,
    pub(super) compute: Compute,
    /// `None`: it has no kernel for CUDA.
    pub(super) launch: Option<Start>,
}

impl Fused {
    pub(super) fn input_ports(self) -> impl Iterator<Item = OperatorInput> {
        let ty = if self.takes_integers { TensorElementType::Int64 } else { TensorElementType::Float32 };
        let required = (0..self.inputs).map(move |_| OperatorInput::required(ty));
        required.chain((0..self.more_inputs).map(move |_| OperatorInput::optional(ty)))
    }

    /// Each may be left out where nothing needs it.
    pub(super) fn output_ports(self) -> impl Iterator<Item = OperatorOutput> {
        (0..self.outputs).map(|_| OperatorOutput::optional(TensorElementType::Float32))
    }

    pub(super) fn infer(self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let settings = Settings::new(
            |name| context.attr(name).ok(),
            |name| context.attr(name).ok(),
            |name| context.attr(name).ok(),
        );
        let dims = |ty: &ValueType| match ty {
            ValueType::Tensor { shape, .. } => shape.iter().map(|dim| usize::try_from(*dim).ok()).collect(),
            _ => None,
        };
        let Some(known) = context.inputs().iter().map(dims).collect::<Option<Vec<Vec<usize>>>>() else { return Ok(()) };
        let shapes = (self.shapes)(&known, &settings).map_err(ort::Error::new)?;
        for (i, shape) in shapes.into_iter().enumerate() {
            let shape = Shape::new(shape.into_iter().map(|dim| dim as i64));
            let dimension_symbols = ort::value::SymbolicDimensions::empty(shape.len());
            // Fails for an optional output that is left out.
            let ty = ValueType::Tensor { ty: TensorElementType::Float32, shape, dimension_symbols };
            let _ = context.set_output(i, &ty);
        }
        Ok(())
    }
}

/// A fused operator on the CPU.
pub(super) struct OnCpu(pub(super) Fused);

impl Operator for OnCpu {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.0.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.0.input_ports()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.0.output_ports()
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let (fused, settings) = (self.0, Settings::of(context));
        Ok(Box::new(move |context: &ComputeContext| {
            run(fused, context, &settings).map_err(|error| ort::Error::new(format!("{}: {error}", fused.name)))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        self.0.infer(context)
    }
}

/// The tensors that the node was given.
pub(super) fn inputs(fused: Fused, context: &ComputeContext) -> Result<Vec<ValueRef<'_>>, String> {
    let mut values = Vec::with_capacity(fused.inputs + fused.more_inputs);
    for i in 0..fused.inputs + fused.more_inputs {
        match context.input(i).map_err(|error| error.to_string())? {
            Some(value) => values.push(value),
            None if i < fused.inputs => return Err(format!("input {i} is missing")),
            None => break,
        }
    }
    Ok(values)
}

fn run(fused: Fused, context: &ComputeContext, settings: &Settings) -> Result<(), String> {
    let text = |error: ort::Error| error.to_string();
    let values = inputs(fused, context)?;
    let dims = |shape: &ort::value::Shape| shape.iter().map(|dim| *dim as usize).collect::<Vec<_>>();
    let mut shapes = Vec::with_capacity(values.len());
    let mut elements: Vec<(&[f32], &[i64])> = Vec::with_capacity(values.len());
    for value in &values {
        if fused.takes_integers {
            let (shape, integers) = value.try_extract_tensor::<i64>().map_err(text)?;
            shapes.push(dims(shape));
            elements.push((&[], integers));
        } else {
            let (shape, floats) = value.try_extract_tensor::<f32>().map_err(text)?;
            shapes.push(dims(shape));
            elements.push((floats, &[]));
        }
    }
    let given = shapes.iter().zip(elements);
    let inputs: Vec<_> = given.map(|(shape, (values, integers))| Input { shape, values, integers }).collect();
    let wanted = (fused.shapes)(&shapes, settings)?;
    let mut given = wanted
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let shape: Vec<_> = shape.iter().map(|dim| *dim as i64).collect();
            context.output(i, shape).map_err(text)
        })
        .collect::<Result<Vec<_>, _>>()?;
    // Outputs that nobody takes are computed all the same, aside.
    let mut aside: Vec<_> = given
        .iter()
        .zip(&wanted)
        .map(|(value, shape)| if value.is_some() { Vec::new() } else { vec![0.0; shape.iter().product()] })
        .collect();
    let mut outputs = given
        .iter_mut()
        .zip(&mut aside)
        .map(|(value, aside)| match value {
            Some(value) => value.try_extract_tensor_mut::<f32>().map(|(_, values)| values).map_err(text),
            None => Ok(aside.as_mut_slice()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    (fused.compute)(&inputs, settings, &mut outputs, &Workers { context })
}
