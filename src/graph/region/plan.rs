//! Which values of a graph lie in memory, and which regions compute them.
//!
//! What a product, a convolution or the graph's reader takes must lie in memory; what lies between is computed again by
//! each region that needs it, unless that would read much more than it saves. Each value in memory that is not the
//! work of a standard operator is a root; roots over one space that share work are one region.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::core::{Graph, Node, Value};
use super::super::operators::{Part, order};
use super::super::tensor::DType;
use super::builder::{Builder, Context};

/// Values are computed again from up to so many large ones by each region that needs them.
const FEW_LEAVES: usize = 1;
/// Beyond these a value is put into memory even for a single use.
const MOST_LEAVES: usize = 8;
const MOST_WORK: usize = 64;
/// A value is spread over a larger one where each of its elements is used so many times.
const SPREAD: usize = 8;
/// Operators that are done again for each of them all the same.
const LITTLE: usize = 2;
/// Nodes that a region on the CPU does the work of at least: ONNX Runtime does one at a time faster.
const WORTHWHILE: usize = 3;
/// Regions looked at, from the last back, for one that a root may join.
const NEAR: usize = 24;

/// What takes the place of the graph's nodes.
pub(super) enum Unit {
    /// A node as it is.
    Node(usize),
    Region(Box<Builder>),
}

/// A set of regions by number.
#[derive(Clone, Default)]
struct Regions(Vec<u64>);

impl Regions {
    fn contains(&self, region: usize) -> bool {
        self.0.get(region / 64).is_some_and(|word| word >> (region % 64) & 1 == 1)
    }

    fn insert(&mut self, region: usize) {
        self.0.resize(self.0.len().max(region / 64 + 1), 0);
        self.0[region / 64] |= 1 << (region % 64);
    }

    fn extend(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }
}

/// What a region may do with a node.
pub(super) fn part(graph: &Graph, node: &Node) -> Option<Part> {
    let part = node.operator.part?;
    let values = node.inputs.iter().flatten().chain(&node.outputs);
    // Kernels count in 32 bits.
    if values.map(|value| graph.ty(*value).elements()).any(|elements| !(1..1 << 31).contains(&elements)) {
        return None;
    }
    let float = |x: &Value| graph.dtype(*x).is_float();
    match part {
        Part::Reduction => {
            let axes = graph.as_i64s(node.input(1))?;
            let (x, y) = (node.input(0), node.outputs[0]);
            let turns = graph.ty(x).elements() > graph.ty(y).elements();
            (!axes.is_empty() && float(&x)).then_some(if turns { part } else { Part::View })
        }
        Part::Pointwise if node.operator.name == "Mod" => {
            (graph.dtype(node.outputs[0]) == DType::I64 && node.int("fmod", 0) == 0).then_some(part)
        }
        Part::Pointwise => {
            // Functions of real numbers; on integers and truth values only what is exact.
            let exact = node.operator.is_exact || node.inputs.iter().flatten().all(float);
            exact.then_some(part)
        }
        Part::View => Some(part),
    }
}

pub(super) struct Plan<'a> {
    graph: &'a Graph,
    /// The node that makes a value, of those that regions may compute.
    makers: HashMap<Value, usize>,
    stored: HashSet<Value>,
    /// The node that makes a value.
    origins: HashMap<Value, usize>,
    /// Nodes that stay as they are.
    standing: Vec<bool>,
    units: Vec<Unit>,
    /// The unit that puts a value into memory.
    homes: HashMap<Value, usize>,
    /// The regions that each unit comes after.
    after: Vec<Regions>,
}

impl<'a> Plan<'a> {
    /// A plan for regions over spaces of at least `least` elements; `reduces`: with reductions.
    pub(super) fn new(graph: &'a Graph, least: usize, reduces: bool) -> Self {
        let mut refused = HashSet::new();
        loop {
            let mut plan = Self::chosen(graph, least, reduces, &refused);
            let left = plan.place(if reduces { 0 } else { WORTHWHILE });
            if left.is_empty() {
                return plan;
            }
            let known = refused.len();
            refused.extend(left);
            assert!(refused.len() > known, "a node that stands is not placed");
        }
    }

    fn chosen(graph: &'a Graph, least: usize, reduces: bool, refused: &HashSet<usize>) -> Self {
        let count = graph.nodes.len();
        let mut plan = Self {
            graph,
            makers: HashMap::new(),
            origins: graph.nodes.iter().enumerate().flat_map(|(i, n)| n.outputs.iter().map(move |y| (*y, i))).collect(),
            stored: graph.outputs.iter().map(|(_, output)| *output).collect(),
            standing: vec![false; count],
            units: Vec::new(),
            homes: HashMap::new(),
            after: Vec::new(),
        };
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            let reduction = part(graph, node) == Some(Part::Reduction);
            let left = refused.contains(&i) || (reduction && !reduces);
            plan.standing[i] = left || plan.stands(node, least);
            if plan.standing[i] {
                plan.stored.extend(node.inputs.iter().flatten());
                plan.stored.extend(&node.outputs);
            } else {
                plan.makers.extend(node.outputs.iter().map(|output| (*output, i)));
            }
        }
        plan.store_what_is_costly();
        plan
    }

    /// Whether a node stays as it is. Nodes that take its outputs have been asked before.
    fn stands(&self, node: &Node, least: usize) -> bool {
        let Some(part) = part(self.graph, node) else { return true };
        let size = |value: &Value| self.graph.ty(*value).elements();
        let largest = node.inputs.iter().flatten().chain(&node.outputs).map(size).max();
        if largest.is_none_or(|elements| elements < least) {
            return true;
        }
        let needed = node.outputs.iter().any(|output| self.stored.contains(output));
        match (part, node.operator.name) {
            (Part::View, "Split" | "Reshape") => needed,
            (Part::View, "Transpose") => {
                let rank = self.graph.shape(node.input(0)).len();
                let stays = order(node, rank).is_ok_and(|order| order.last() == Some(&rank.saturating_sub(1)));
                needed && !stays && !self.is_computed(node.input(0))
            }
            _ => false,
        }
    }

    /// Whether a region may compute a value, rather than read it.
    fn is_computed(&self, value: Value) -> bool {
        let maker = self.origins.get(&value).map(|i| &self.graph.nodes[*i]);
        maker.is_some_and(|node| part(self.graph, node) == Some(Part::Pointwise))
    }

    /// Values that several nodes need, and that are computed from several large ones, are computed once.
    fn store_what_is_costly(&mut self) {
        let mut uses: HashMap<Value, usize> = HashMap::new();
        for node in &self.graph.nodes {
            let inputs: HashSet<_> = node.inputs.iter().flatten().collect();
            inputs.into_iter().for_each(|input| *uses.entry(*input).or_default() += 1);
        }
        let mut cones: HashMap<Value, (BTreeSet<Value>, usize)> = HashMap::new();
        let graph = self.graph;
        for (i, node) in graph.nodes.iter().enumerate() {
            if self.standing[i] {
                continue;
            }
            let part = part(self.graph, node);
            for output in &node.outputs {
                if part == Some(Part::Reduction) {
                    self.stored.insert(*output);
                    continue;
                }
                let size = self.graph.ty(*output).elements();
                let (mut leaves, mut work) = (BTreeSet::new(), usize::from(part == Some(Part::Pointwise)));
                for input in node.inputs.iter().flatten() {
                    let source = self.source(*input);
                    let cone = cones.get(&source).filter(|_| !self.is_stored(source));
                    // A value that is spread over a much larger one is computed once, not for each of its elements,
                    // unless that is hardly any work.
                    let is_spread = self.graph.ty(source).elements() * SPREAD <= size;
                    match cone {
                        Some((_, work)) if is_spread && *work > LITTLE => {
                            self.stored.insert(source);
                        }
                        Some((below, more)) => {
                            leaves.extend(below);
                            work += more;
                        }
                        None => drop(leaves.insert(source)),
                    }
                }
                leaves.retain(|leaf| self.graph.ty(*leaf).elements() * 8 >= size);
                let again = uses.get(output).copied().unwrap_or(0) > 1;
                let costly = (again && leaves.len() > FEW_LEAVES) || leaves.len() > MOST_LEAVES || work > MOST_WORK;
                if costly && part == Some(Part::Pointwise) {
                    self.stored.insert(*output);
                }
                cones.insert(*output, (leaves, work));
            }
        }
    }

    /// What a value is a view of.
    fn source(&self, mut value: Value) -> Value {
        while let Some(i) = self.makers.get(&value).filter(|_| !self.is_stored(value))
            && part(self.graph, &self.graph.nodes[*i]) == Some(Part::View)
        {
            value = self.graph.nodes[*i].input(0);
        }
        value
    }

    fn is_stored(&self, value: Value) -> bool {
        !self.makers.contains_key(&value) || self.stored.contains(&value)
    }

    /// Gives every value in memory a unit that puts it there. Gives nodes that no region can take, or none that does the
    /// work of `least` nodes: they stay as they are.
    fn place(&mut self, least: usize) -> Vec<usize> {
        let mut left = Vec::new();
        for i in 0..self.graph.nodes.len() {
            let node = &self.graph.nodes[i];
            if self.standing[i] {
                let inputs: Vec<_> = node.inputs.iter().flatten().copied().collect();
                let unit = self.unit(Unit::Node(i), &inputs);
                self.homes.extend(node.outputs.iter().map(|output| (*output, unit)));
                continue;
            }
            for output in node.outputs.clone() {
                if self.stored.contains(&output) && self.place_root(output, least).is_none() {
                    left.push(i);
                }
            }
        }
        left
    }

    fn unit(&mut self, unit: Unit, inputs: &[Value]) -> usize {
        let after = self.before(inputs);
        self.units.push(unit);
        self.after.push(after);
        self.units.len() - 1
    }

    /// The regions that must run before something that takes these values.
    fn before(&self, inputs: &[Value]) -> Regions {
        let mut before = Regions::default();
        for home in inputs.iter().filter_map(|input| self.homes.get(input)) {
            before.extend(&self.after[*home]);
            if matches!(self.units[*home], Unit::Region(_)) {
                before.insert(*home);
            }
        }
        before
    }

    fn place_root(&mut self, value: Value, least: usize) -> Option<()> {
        // What depends on no input is computed once, before the first run, but only by standard operators.
        let alone = self.alone(value).filter(|alone| !alone.inputs().is_empty())?;
        let regions = (0..self.units.len()).rev().filter(|unit| matches!(self.units[*unit], Unit::Region(_)));
        let joined = regions.take(NEAR).find_map(|unit| Some((unit, self.joined(unit, value, &alone)?)));
        let unit = match joined {
            Some((unit, builder)) => {
                let mut before = self.before(&self.others(&builder, unit));
                before.extend(&self.after[unit].clone());
                for after in &mut self.after {
                    if after.contains(unit) {
                        after.extend(&before);
                    }
                }
                self.after[unit] = before;
                self.units[unit] = Unit::Region(Box::new(builder));
                unit
            }
            None if alone.work < least
                && part(self.graph, &self.graph.nodes[self.makers[&value]]) != Some(Part::View) =>
            {
                return None;
            }
            None => {
                let inputs = alone.inputs();
                self.unit(Unit::Region(Box::new(alone)), &inputs)
            }
        };
        self.homes.insert(value, unit);
        Some(())
    }

    /// The inputs of a builder that other units make.
    fn others(&self, builder: &Builder, unit: usize) -> Vec<Value> {
        builder.inputs().into_iter().filter(|input| self.homes.get(input) != Some(&unit)).collect()
    }

    fn alone(&self, value: Value) -> Option<Builder> {
        let node = &self.graph.nodes[self.makers[&value]];
        let space = if part(self.graph, node) == Some(Part::Reduction) { node.input(0) } else { value };
        let mut builder = Builder::new(self.graph.shape(space));
        builder.root(&self.context(&|value| self.is_stored(value)), value)?;
        Some(builder)
    }

    /// The region with one root more, if it shares work with it and need not run before itself.
    fn joined(&self, unit: usize, value: Value, alone: &Builder) -> Option<Builder> {
        let Unit::Region(region) = &self.units[unit] else { return None };
        let mut builder = Builder::clone(region);
        builder.root(&self.context(&|value| self.is_stored(value)), value)?;
        let shares = builder.weight() < region.weight() + alone.weight();
        let inputs = self.others(&builder, unit);
        let waits =
            inputs.iter().filter_map(|input| self.homes.get(input)).any(|home| self.after[*home].contains(unit));
        let own = builder.inputs().len() == inputs.len();
        (shares && own && !waits && builder.is_in_turn()).then_some(builder)
    }

    fn context<'b>(&'b self, is_stored: &'b dyn Fn(Value) -> bool) -> Context<'b> {
        Context { graph: self.graph, makers: &self.makers, is_stored }
    }

    /// The units in an order in which each comes after what it takes, early ones first.
    pub(super) fn in_order(self) -> Vec<Unit> {
        let mut waits: Vec<usize> = Vec::with_capacity(self.units.len());
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); self.units.len()];
        for (i, unit) in self.units.iter().enumerate() {
            let inputs = match unit {
                Unit::Node(node) => self.graph.nodes[*node].inputs.iter().flatten().copied().collect(),
                Unit::Region(builder) => builder.inputs(),
            };
            let homes: HashSet<_> = inputs.iter().filter_map(|input| self.homes.get(input).copied()).collect();
            waits.push(homes.len());
            homes.into_iter().for_each(|home| next[home].push(i));
        }
        // A region's place is that of its last root, so that nothing is computed long before it is needed.
        let place = |unit: &Unit| match unit {
            Unit::Node(node) => *node,
            Unit::Region(builder) => builder.roots.iter().map(|(value, _)| self.makers[value]).max().unwrap_or(0),
        };
        let places: Vec<_> = self.units.iter().map(place).collect();
        let mut ready: BTreeSet<_> = (0..waits.len()).filter(|i| waits[*i] == 0).map(|i| (places[i], i)).collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some((_, unit)) = ready.pop_first() {
            order.push(unit);
            for after in &next[unit] {
                waits[*after] -= 1;
                if waits[*after] == 0 {
                    ready.insert((places[*after], *after));
                }
            }
        }
        assert_eq!(order.len(), waits.len(), "regions wait for each other");
        let mut units: Vec<_> = self.units.into_iter().map(Some).collect();
        order.into_iter().map(|unit| units[unit].take().expect("each once")).collect()
    }
}
