//! What a fused operator is, and how one runs on the CPU: as a function over slices.

use std::sync::{Mutex, PoisonError};

use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::{Shape, TensorElementType, ValueRef, ValueType};

use super::launch::{Launch, Room};
pub(super) use crate::graph::Attributes;
use crate::graph::{self, Attribute, DType, GraphError, TensorType};

/// Runs `work(piece)` on ONNX Runtime's own threads, each piece once.
pub(super) struct Workers<'a> {
    /// `None`: the caller's thread.
    context: Option<&'a ComputeContext>,
}

impl<'a> Workers<'a> {
    pub(super) fn new(context: &'a ComputeContext) -> Self {
        Self { context: Some(context) }
    }

    #[cfg(test)]
    pub(super) fn alone() -> Self {
        Self { context: None }
    }

    pub(super) fn each<P: Send>(&self, pieces: Vec<P>, work: impl Fn(P) + Sync + Send) -> ort::Result<()> {
        let Some(context) = self.context else {
            pieces.into_iter().for_each(work);
            return Ok(());
        };
        let pieces: Vec<_> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
        let run = |i: usize| {
            // Each piece is asked for once, so nobody waits here.
            let piece = pieces[i].lock().ok().and_then(|mut piece| piece.take());
            if let Some(piece) = piece {
                work(piece);
            }
        };
        // Automatic batching: 0.
        context.par_for(pieces.len(), 0, run)
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

/// A fused operator's kernel, with the attributes of one node.
pub(super) trait Kernel: Send + Sync {
    /// Fills the outputs, whose shapes are those that the graph's rule gives.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()>;

    /// How the kernels in cuda.cu are started, for inputs of these shapes; `None`: there are none.
    fn launch(&self, _shapes: &[Vec<usize>], _room: Room) -> Option<Launch> {
        None
    }
}

/// What kind an attribute is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Int,
    Ints,
    Float,
}

/// A fused operator that gives float32 tensors.
#[derive(Clone, Copy)]
pub(super) struct Fused {
    pub(super) name: &'static str,
    pub(super) attributes: &'static [(&'static str, Kind)],
    pub(super) inputs: usize,
    /// Further inputs that may be there, behind the others.
    pub(super) more_inputs: usize,
    /// Whether it takes int64 tensors instead of float32 ones.
    pub(super) takes_integers: bool,
    pub(super) outputs: usize,
    pub(super) kernel: fn(&Attributes) -> Box<dyn Kernel>,
}

/// One node of a fused operator.
pub(super) struct FusedNode {
    pub(super) fused: Fused,
    pub(super) kernel: Box<dyn Kernel>,
    rule: Rule,
    /// The inputs' shapes of the last run, with the outputs': they seldom change.
    last: Mutex<Option<[Vec<Vec<usize>>; 2]>>,
}

/// The graph's rule for the shapes of a fused operator.
struct Rule {
    fused: Fused,
    operator: &'static graph::Operator,
    attributes: Attributes,
}

impl Rule {
    fn outputs(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, GraphError> {
        let dtype = if self.fused.takes_integers { DType::I64 } else { DType::F32 };
        let types: Vec<_> = inputs.iter().map(|shape| TensorType::new(dtype, shape.clone())).collect();
        graph::fused_shapes(self.operator, &types, &self.attributes)
    }
}

impl FusedNode {
    pub(super) fn new(fused: Fused, attributes: Attributes) -> Result<Self, GraphError> {
        let kernel = (fused.kernel)(&attributes);
        Ok(Self { fused, kernel, rule: fused.rule(attributes)?, last: Mutex::new(None) })
    }

    /// Shapes of the outputs, from those of the inputs.
    pub(super) fn shapes(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, GraphError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some([seen, outputs]) = last.as_ref().filter(|[seen, _]| seen == inputs) {
            debug_assert_eq!(seen.len(), inputs.len());
            return Ok(outputs.clone());
        }
        let outputs = self.rule.outputs(inputs)?;
        *last = Some([inputs.to_vec(), outputs.clone()]);
        Ok(outputs)
    }
}

impl Fused {
    fn rule(self, attributes: Attributes) -> Result<Rule, GraphError> {
        let operator = graph::find_operator(self.name).ok_or_else(|| format!("{} is not in the table", self.name))?;
        Ok(Rule { fused: self, operator, attributes })
    }

    /// The attributes of a node, as whoever knows it gives them.
    pub(super) fn read(
        self,
        int: impl Fn(&str) -> Option<i64>,
        ints: impl Fn(&str) -> Option<Vec<i64>>,
        float: impl Fn(&str) -> Option<f32>,
    ) -> Attributes {
        let attribute = |(name, kind): &(&'static str, Kind)| {
            let value = match kind {
                Kind::Int => Attribute::Int(int(name)?),
                Kind::Ints => Attribute::Ints(ints(name)?),
                Kind::Float => Attribute::Float(float(name)?),
            };
            Some(((*name).into(), value))
        };
        self.attributes.iter().filter_map(attribute).collect()
    }

    /// The node that a kernel is made for.
    pub(super) fn node(self, context: &KernelContext<'_>) -> ort::Result<FusedNode> {
        let attributes = self.read(|name| context.get(name), |name| context.get(name), |name| context.get(name));
        FusedNode::new(self, attributes).map_err(refused)
    }

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
        let attributes =
            self.read(|name| context.attr(name).ok(), |name| context.attr(name).ok(), |name| context.attr(name).ok());
        let dims = |ty: &ValueType| match ty {
            ValueType::Tensor { shape, .. } => shape.iter().map(|dim| usize::try_from(*dim).ok()).collect(),
            _ => None,
        };
        let Some(known) = context.inputs().iter().map(dims).collect::<Option<Vec<Vec<usize>>>>() else { return Ok(()) };
        let shapes = self.rule(attributes).and_then(|rule| rule.outputs(&known)).map_err(refused)?;
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
        let node = self.0.node(context)?;
        Ok(Box::new(move |context: &ComputeContext| {
            run(&node, context).map_err(|error| ort::Error::new(format!("{}: {error}", node.fused.name)))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        self.0.infer(context)
    }
}

/// The graph's refusal in the library's words.
pub(super) fn refused(error: GraphError) -> ort::Error {
    ort::Error::new(error.to_string())
}

/// The tensors that the node was given.
pub(super) fn inputs(fused: Fused, context: &ComputeContext) -> ort::Result<Vec<ValueRef<'_>>> {
    let mut values = Vec::with_capacity(fused.inputs + fused.more_inputs);
    for i in 0..fused.inputs + fused.more_inputs {
        match context.input(i)? {
            Some(value) => values.push(value),
            None if i < fused.inputs => return Err(ort::Error::new(format!("input {i} is missing"))),
            None => break,
        }
    }
    Ok(values)
}

fn run(node: &FusedNode, context: &ComputeContext) -> ort::Result<()> {
    let fused = node.fused;
    let values = inputs(fused, context)?;
    let dims = |shape: &ort::value::Shape| shape.iter().map(|dim| *dim as usize).collect::<Vec<_>>();
    let mut shapes = Vec::with_capacity(values.len());
    let mut elements: Vec<(&[f32], &[i64])> = Vec::with_capacity(values.len());
    for value in &values {
        if fused.takes_integers {
            let (shape, integers) = value.try_extract_tensor::<i64>()?;
            shapes.push(dims(shape));
            elements.push((&[], integers));
        } else {
            let (shape, floats) = value.try_extract_tensor::<f32>()?;
            shapes.push(dims(shape));
            elements.push((floats, &[]));
        }
    }
    let given = shapes.iter().zip(elements);
    let inputs: Vec<_> = given.map(|(shape, (values, integers))| Input { shape, values, integers }).collect();
    let wanted = node.shapes(&shapes).map_err(refused)?;
    let mut given = wanted
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let shape: Vec<_> = shape.iter().map(|dim| *dim as i64).collect();
            context.output(i, shape)
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
            Some(value) => value.try_extract_tensor_mut::<f32>().map(|(_, values)| values),
            None => Ok(aside.as_mut_slice()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    node.kernel.compute(&inputs, &mut outputs, &Workers::new(context))
}
