//! The operator `Region`: a program of the graph as one node.

mod cpu;
mod cuda;
mod functions;
mod source;
#[cfg(test)]
mod tests;

use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::ValueType;

pub(super) use cuda::{OnCuda, Regions};

use super::operator::{Workers, refused};
use super::tensors::{infer_output, is};
use crate::graph::{DType, PROGRAM, Program, REGION};
use cpu::{Arrays, Elements, Place, Prepared};

fn inputs() -> [OperatorInput; 1] {
    [OperatorInput::variadic(0)]
}

fn outputs() -> [OperatorOutput; 1] {
    [OperatorOutput::variadic(1)]
}

fn infer(context: &mut ShapeInferenceContext) -> ort::Result<()> {
    let program = Program::from_text(&context.attr::<String>(PROGRAM)?).map_err(refused)?;
    for (i, ty) in program.output_types().iter().enumerate() {
        infer_output(context, i, ty)?;
    }
    Ok(())
}

/// The program of a node.
fn program(context: &KernelContext<'_>) -> ort::Result<(String, Program)> {
    let text: String = context.get(PROGRAM).ok_or_else(|| ort::Error::new("a region without a program"))?;
    let program = Program::from_text(&text).map_err(refused)?;
    Ok((text, program))
}

/// Fails unless input `i` is what the program takes.
fn check(program: &Program, i: usize, ty: &ValueType) -> ort::Result<()> {
    let (dtype, shape) = &program.inputs[i];
    match is(ty, *dtype, shape) {
        true => Ok(()),
        false => Err(ort::Error::new(format!("input {i} is {ty}, expected {dtype} {shape:?}"))),
    }
}

/// Regions on the CPU.
pub(super) struct OnCpu;

impl Operator for OnCpu {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        REGION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        outputs()
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let (_, program) = program(context)?;
        let prepared = Prepared::new(program.clone());
        Ok(Box::new(move |context: &ComputeContext| {
            run(&program, &prepared, context).map_err(|error| ort::Error::new(format!("{REGION}: {error}")))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer(context)
    }
}

fn run(program: &Program, prepared: &Prepared, context: &ComputeContext) -> ort::Result<()> {
    let mut values = Vec::with_capacity(program.inputs.len());
    for i in 0..program.inputs.len() {
        let value = context.input(i)?.ok_or_else(|| ort::Error::new(format!("input {i} is missing")))?;
        check(program, i, value.dtype())?;
        values.push(value);
    }
    let elements = values.iter().zip(&program.inputs).map(|(value, (dtype, _))| {
        Ok(match dtype {
            DType::F32 => Elements::F32(value.try_extract_tensor()?.1),
            DType::F16 => Elements::F16(value.try_extract_tensor()?.1),
            DType::BF16 => Elements::BF16(value.try_extract_tensor()?.1),
            DType::I64 => Elements::I64(value.try_extract_tensor()?.1),
            DType::Bool => Elements::Bool(value.try_extract_tensor()?.1),
        })
    });
    let inputs = elements.collect::<ort::Result<Vec<_>>>()?;
    let mut given = Vec::with_capacity(program.outputs.len());
    for (i, ty) in program.output_types().into_iter().enumerate() {
        let shape: Vec<_> = ty.shape.iter().map(|dim| *dim as i64).collect();
        let value = context.output(i, shape)?.ok_or_else(|| ort::Error::new(format!("output {i} is left out")))?;
        given.push((ty.dtype, value));
    }
    let places = given.iter_mut().map(|(dtype, value)| {
        Ok(match dtype {
            DType::F32 => Place::F32(value.try_extract_tensor_mut()?.1.as_mut_ptr()),
            DType::F16 => Place::F16(value.try_extract_tensor_mut()?.1.as_mut_ptr()),
            DType::BF16 => Place::BF16(value.try_extract_tensor_mut()?.1.as_mut_ptr()),
            DType::I64 => Place::I64(value.try_extract_tensor_mut()?.1.as_mut_ptr()),
            DType::Bool => Place::Bool(value.try_extract_tensor_mut()?.1.as_mut_ptr()),
        })
    });
    let outputs = places.collect::<ort::Result<Vec<_>>>()?;
    prepared.run(&Arrays { inputs, outputs }, &Workers::new(context))
}
