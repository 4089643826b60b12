//! Mixed precision, as PyTorch's autocast decides it: while operators are applied under an [`Autocast`], products
//! take their inputs in the lower precision, cheap operators follow their inputs, and the rest (sums, norms,
//! exponentials) computes in float32. Gradients then run in the precision of what they belong to.

use super::attributes::Attribute;
use super::build::attributes;
use super::core::{Graph, Node, Value};
use super::operators::{Operator, Precision};
use super::tensor::DType;

/// The lower precision of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autocast {
    /// `convolutions`: those, too, which ONNX Runtime has no such kernels of.
    Bf16 {
        convolutions: bool,
    },
    Fp16,
    /// Products with weights in float16, all else in float32: for exported models. (Where a float16 tensor is transposed
    /// and cast on its way into a MatMul, ONNX Runtime 1.31 crashes as it loads the model.)
    Fp16Weights,
}

impl Autocast {
    fn dtype(self) -> DType {
        match self {
            Self::Bf16 { .. } => DType::BF16,
            Self::Fp16 | Self::Fp16Weights => DType::F16,
        }
    }

    /// Whether products of this kind are in the lower precision.
    fn lowers(self, bf16: bool, weights: bool) -> bool {
        match self {
            Self::Bf16 { convolutions } => bf16 || convolutions,
            Self::Fp16 => true,
            Self::Fp16Weights => weights,
        }
    }

    /// What an operator takes its inputs in.
    fn inputs(self, graph: &Graph, operator: &Operator, inputs: &[Option<Value>]) -> DType {
        let low = match operator.precision {
            Precision::Product { bf16, weights } => self.lowers(bf16, weights),
            // A constant number takes the type of what it is combined with.
            Precision::Follow => self != Self::Fp16Weights && graph.is_low_but_for_numbers(inputs),
            Precision::Full => false,
        };
        if low { self.dtype() } else { DType::F32 }
    }
}

impl Graph {
    /// Applies what follows under `autocast`, or in the types as given.
    pub fn set_autocast(&mut self, autocast: Option<Autocast>) {
        self.autocast = autocast;
    }

    /// Whether products take their inputs in float16, whose range is small.
    pub fn has_small_range(&self) -> bool {
        matches!(self.autocast, Some(Autocast::Fp16 | Autocast::Fp16Weights))
    }

    /// `x` in another element type.
    pub fn cast(&mut self, x: Value, to: DType) -> Value {
        if self.dtype(x) == to {
            return x;
        }
        self.apply1("Cast", &[x], attributes([("to", Attribute::Int(to.data_type() as i64))]))
    }

    /// The inputs in the precision in which the operator is to compute.
    pub(super) fn cast_inputs(&mut self, operator: &Operator, inputs: Vec<Option<Value>>) -> Vec<Option<Value>> {
        let Some(autocast) = self.autocast.filter(|_| operator.name != "Cast") else { return inputs };
        let floats: Vec<_> = inputs.iter().flatten().map(|x| self.dtype(*x)).filter(|ty| ty.is_float()).collect();
        let to = autocast.inputs(self, operator, &inputs);
        if floats.iter().all(|ty| *ty == to) {
            return inputs;
        }
        let cast = |graph: &mut Self, x: Value| if graph.dtype(x).is_float() { graph.cast(x, to) } else { x };
        inputs.into_iter().map(|x| x.map(|x| cast(self, x))).collect()
    }

    fn is_low_but_for_numbers(&self, inputs: &[Option<Value>]) -> bool {
        let is_number = |x: &Value| self.as_constant(*x).is_some() && self.ty(*x).elements() == 1;
        let wide = |x: &Value| self.dtype(*x) == DType::F32 && !is_number(x);
        let low = |x: &Value| self.dtype(*x).is_half();
        inputs.iter().flatten().any(low) && !inputs.iter().flatten().any(wide)
    }
}

/// Stores constants that are only read in half precision as such: half the file.
pub fn narrow_constants(graph: &mut Graph) {
    graph.rewrite(|graph, node: &Node, _| {
        let to = graph.dtype(node.outputs[0]);
        if node.operator.name != "Cast" || !to.is_half() {
            return None;
        }
        let wide = graph.as_constant(node.input(0)).filter(|constant| constant.dtype() == DType::F32)?;
        let narrow = wide.clone().cast(to);
        Some(vec![graph.constant(narrow)])
    });
}

/// Makes those operators of half precision that `concerns` names compute in float32 on rounded values: what a
/// provider without such kernels does to find the same numbers, up to the order of sums.
pub(super) fn widen(graph: &mut Graph, concerns: impl Fn(&Operator, DType) -> bool) {
    let is_half = |graph: &Graph, x: Value| graph.dtype(x).is_half();
    graph.rewrite(|graph, node: &Node, _| {
        let half = node.outputs.iter().map(|y| is_half(graph, *y).then(|| graph.dtype(*y))).collect::<Vec<_>>();
        let inputs = node.inputs.iter().flatten();
        let mut types = inputs.chain(&node.outputs).map(|x| graph.dtype(*x));
        let concerned = types.any(|ty| ty.is_half() && concerns(node.operator, ty));
        if node.operator.name == "Cast" || !concerned {
            return None;
        }
        let widened = |graph: &mut Graph, x: Value| if is_half(graph, x) { graph.cast(x, DType::F32) } else { x };
        let inputs = node.inputs.iter().map(|x| x.map(|x| widened(graph, x))).collect();
        let outputs = graph.try_apply(node.operator.name, inputs, node.attributes.clone());
        let outputs = outputs.unwrap_or_else(|message| panic!("{message}"));
        Some(outputs.into_iter().zip(half).map(|(y, ty)| ty.map_or(y, |ty| graph.cast(y, ty))).collect())
    });
}
