//! Overlapping frames of a signal.

use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family { operators: &[fused("Frames", frames).expand(expand_frames)], imports: &[] };

/// Frames of x [n, rows, width]: frame i of `count` is rows [i advance, i advance + length), with zeros beyond the
/// last row; all of them as [n count, length width].
fn frames(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    let [n, _, width] = x.shape[..] else { return Err(format!("{x} is not [n, rows, width]").into()) };
    let (advance, length, count) = framing(node);
    if advance == 0 || length == 0 {
        return Err("frames need an advance and a length".into());
    }
    Ok(vec![TensorType::new(x.dtype, [n * count, length * width])])
}

/// Advance, length and count of frames.
fn framing(node: &Node) -> (usize, usize, usize) {
    let attribute = |name| node.int(name, 1) as usize;
    (attribute("advance"), attribute("length"), attribute("count"))
}

/// Frames put together from pieces of `advance` rows.
fn expand_frames(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (x, (advance, length, count)) = (node.input(0), framing(node));
    let [n, rows, width] = graph.shape(x)[..] else { unreachable!("checked by inference") };
    let pieces = length.div_ceil(advance);
    let needed = (count + pieces - 1) * advance;
    let x = if rows > needed { graph.slice(x, 1, 0, needed) } else { graph.pad(x, 1, 0, needed - rows) };
    let x = graph.reshape(x, &[n, count + pieces - 1, advance * width]);
    let parts: Vec<_> = (0..pieces)
        .map(|piece| {
            let shifted = graph.slice(x, 1, piece, piece + count);
            graph.slice(shifted, 2, 0, advance.min(length - piece * advance) * width)
        })
        .collect();
    let joined = graph.concat(&parts, 2);
    vec![graph.reshape(joined, &[n * count, length * width])]
}
