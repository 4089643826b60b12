//! The streaming form of the TDS networks: maps a chunk of EMG and a state to angles and the next state.
//!
//! Convolutions keep the rows that the next chunk still needs. Features are taken to decoder steps on the grid of a window
//! of given length, whose spacing goes on beyond it, and the steps back to rows: within the window exactly as over the whole
//! window at once, beyond it along the same grid of steps, so that angles never drift from the EMG. Positions on the grid are
//! ratios of integers: a stream of any length knows them exactly.

use super::decoder::{Decoder, StepState};
use super::encoder::{Encoder, History};
use super::error::ModelError;
use super::limits::MOST_CHUNK_STEPS;
use super::network::ModelInputs;
use super::pass::Pass;
use super::resample::mix;
use super::stream::{Streamed, check_chunk, default_chunk};
use crate::graph::{DType, Graph, Value};

/// A TDS network as a stream.
#[derive(Debug, Clone)]
pub(super) struct TdsStream {
    encoder: Encoder,
    decoder: Decoder,
    grid: Grid,
}

/// Where features, steps and rows lie in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Rows of left context.
    context: i64,
    /// Rows from one feature to the next.
    stride: i64,
    /// Features, steps and target rows of the window.
    features: i64,
    steps: i64,
    rows: i64,
    /// Rows of a chunk, and features that one gives.
    chunk: i64,
    fresh: i64,
    /// Rows that angles lag behind the EMG.
    lag: i64,
    /// Steps made before a chunk that its rows may still need.
    kept: i64,
}

/// a / b rounded up, of numbers that are not negative.
fn div_ceil(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

impl Grid {
    /// The last feature that step `i` is made of.
    fn needed(&self, step: i64) -> i64 {
        div_ceil(step * (self.features - 1), self.steps - 1)
    }

    /// What positions of rows among steps are counted in.
    fn denominator(&self) -> i64 {
        2 * self.rows * self.stride * (self.features - 1)
    }

    /// Position of target row `row` among the steps, in these units; PyTorch's `align_corners=False` within the window.
    fn position(&self, row: i64) -> i64 {
        let last = self.rows - 1;
        let within = ((2 * row.min(last) + 1) * self.steps - self.rows) * self.stride * (self.features - 1);
        within.max(0) + (row - last).max(0) * self.beyond()
    }

    /// What a position grows by from row to row behind the window.
    fn beyond(&self) -> i64 {
        2 * self.rows * (self.steps - 1)
    }

    /// What the steps on both sides of a row need beyond it.
    fn look_ahead(&self) -> i64 {
        let behind = |row: i64| {
            let step = div_ceil(self.position(row), self.denominator());
            self.needed(step) * self.stride - row
        };
        // Behind the window a row's step is less than one after it, and a step's feature less than one after the step.
        let beyond =
            (self.position(self.rows - 1) + self.denominator()) / self.beyond() + self.stride - (self.rows - 1);
        (0..self.rows).map(behind).max().unwrap_or(0).max(beyond + 1)
    }

    /// Steps that `features` of them make.
    fn steps_of(&self, features: i64) -> i64 {
        if features > 0 { (features - 1) * (self.steps - 1) / (self.features - 1) + 1 } else { 0 }
    }

    /// Steps that one chunk can make.
    fn steps_per_chunk(&self) -> i64 {
        div_ceil(self.fresh * (self.steps - 1), self.features - 1)
    }

    /// The most steps made before a chunk that its rows may still need.
    fn look_back(&self) -> i64 {
        let first_of = |chunk: i64| (chunk * self.chunk - self.lag - self.context).max(0);
        let features = |rows: i64| (rows - self.context - 1 + self.stride).max(0) / self.stride;
        let behind = |chunk: i64| {
            self.steps_of(features(chunk * self.chunk)) - self.position(first_of(chunk)) / self.denominator()
        };
        let chunks = (self.context + self.rows + self.lag) / self.chunk + 2;
        // Behind the window, steps and rows keep their distance but for the chunk and the step that they are rounded to.
        (0..=chunks).map(behind).max().unwrap_or(0).max(1) + self.steps_per_chunk() + 1
    }
}

impl TdsStream {
    /// The stream on the grid of windows of `rows` rows, of which `features` features and `steps` steps come, in chunks of
    /// `chunk` rows (default: some 20 ms at `rate`).
    pub(super) fn new(
        encoder: &Encoder,
        decoder: &Decoder,
        rows: usize,
        steps: usize,
        chunk: Option<usize>,
        rate: f64,
    ) -> Result<Self, ModelError> {
        let (stride, context) = (encoder.stride(), encoder.left_context());
        let chunk = chunk.unwrap_or_else(|| default_chunk(stride, rate));
        check_chunk(chunk, stride)?;
        let features = encoder.output_rows(rows).filter(|features| *features > 1 && steps > 1);
        let features = features.ok_or(ModelError::SingleStep { rows })?;
        encoder.history_shapes()?;
        let mut grid = Grid {
            context: context as i64,
            stride: stride as i64,
            features: features as i64,
            steps: steps as i64,
            rows: (rows - context) as i64,
            chunk: chunk as i64,
            fresh: (chunk / stride) as i64,
            lag: 0,
            kept: 0,
        };
        let steps = grid.steps_per_chunk();
        if steps > MOST_CHUNK_STEPS {
            return Err(ModelError::ChunkTooLong { chunk, steps });
        }
        grid.lag = grid.look_ahead();
        grid.kept = grid.look_back();
        Ok(Self { encoder: encoder.clone(), decoder: decoder.clone(), grid })
    }

    /// Rows of a chunk.
    pub(super) fn chunk(&self) -> usize {
        self.grid.chunk as usize
    }

    /// Rows that angles lag behind the EMG.
    pub(super) fn lag(&self) -> usize {
        self.grid.lag as usize
    }

    /// Shapes of the state's parts: convolutions' histories, the last feature, the decoder's state, the last poses.
    fn parts(&self) -> Vec<Vec<usize>> {
        let mut parts = self.encoder.history_shapes().expect("checked when the stream was made");
        parts.push(vec![1, 1, self.encoder.features()]);
        parts.extend(self.decoder.state_shapes());
        parts.push(vec![self.grid.kept as usize, self.decoder.joints]);
        parts
    }

    /// Elements of the state; all zero before the first chunk.
    pub(super) fn state_elements(&self) -> usize {
        self.parts().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// One chunk. Its EMG is [1, chunk, channels]; `count` [1]: how many of its rows there are, fewer than all only
    /// at the stream's end, and 0 to get the rows that lag behind; `state` [state elements] and `position`
    /// [[`Stream::POSITIONS`]].
    pub(super) fn forward(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        inputs: &ModelInputs,
        count: Value,
        [state, position]: [Value; 2],
    ) -> Streamed {
        let &ModelInputs { emg, initial_pose, .. } = inputs;
        let shapes = self.parts();
        let sizes: Vec<_> = shapes.iter().map(|shape| shape.iter().product()).collect();
        let parts = graph.split(state, 0, &sizes);
        let mut parts =
            parts.into_iter().zip(&shapes).map(|(part, shape)| graph.reshape(part, shape)).collect::<Vec<_>>();
        let poses = parts.pop().expect("the poses are last");
        let decoder = parts.split_off(parts.len() - self.decoder.state_shapes().len());
        let last_feature = parts.pop().expect("the feature is before the decoder's state");
        let now = Position::new(graph, &self.grid, position, count);

        let mut history = History::new(parts);
        let fresh = self.encoder.forward(graph, pass, emg, Some(&mut history));
        let features = graph.concat(&[last_feature, fresh], 1);
        let first_step = graph.equal(now.steps, now.zero);
        let mut before = StepState::of(decoder);
        if let Some(pose) = initial_pose {
            before.pose = graph.select(first_step, pose, before.pose);
        }
        let (decoder, made) = self.steps(graph, pass, &now, features, before);

        let made: Vec<_> = std::iter::once(poses).chain(made).collect();
        let all = graph.concat(&made, 0);
        let after = now.steps_after(graph, &self.grid);
        let angles = self.angles(graph, &now, after, all);
        let kept = now.kept(graph, &self.grid, after, all);
        let end = graph.shape(features)[1];
        let last_feature = graph.slice(features, 1, end - 1, end);
        let next = history.next().into_iter().chain([last_feature]).chain(decoder.values()).chain([kept]);
        let next: Vec<_> = next.map(|x| flat(graph, x)).collect();
        let state = graph.concat(&next, 0);
        let is_predicted = now.is_predicted(graph);
        let position = now.next(graph, after);
        Streamed { angles, is_predicted, state, position }
    }

    /// The decoder's steps that `features` [1, 1 + fresh, n] make possible, as many as a chunk can make at most: what is not
    /// there yet changes nothing. Gives the state behind them and their poses, [1, joints] each.
    fn steps(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        now: &Position,
        features: Value,
        mut state: StepState,
    ) -> (StepState, Vec<Value>) {
        let most = self.grid.steps_per_chunk() as usize;
        let index: Vec<_> = (0..most as i64).collect();
        let index = graph.i64s(&index);
        let steps = graph.add(now.steps, index);
        let [low, share, needed] = now.places(graph, &self.grid, steps);
        let is_there = graph.less(needed, now.features);
        let low = now.within_chunk(graph, &self.grid, low);
        let inputs = now.between(graph, features, 1, low, share);
        let inputs = graph.transpose(inputs, &[1, 0, 2]);
        let mut rollout = self.decoder.begin(graph, pass, inputs);
        let mut poses = Vec::with_capacity(most);
        for step in 0..most {
            let here = |graph: &mut Graph, list: Value| graph.slice(list, 0, step, step + 1);
            let (number, is_there) = (here(graph, steps), here(graph, is_there));
            let next = rollout.step_at(graph, pass, step, number, &state);
            state = StepState::select(graph, is_there, &next, &state);
            poses.push(state.pose);
        }
        (state, poses)
    }

    /// Rows of the poses `all` [kept + made, joints], between which they lie on the grid.
    fn angles(&self, graph: &mut Graph, now: &Position, after: Value, all: Value) -> Value {
        let [low, share] = now.positions(graph, &self.grid);
        // Behind the stream's end the last pose stays.
        let last = graph.sub(after, now.one);
        let first = graph.i64s(&[self.grid.kept]);
        let first = graph.sub(now.steps, first);
        let place = |graph: &mut Graph, step: Value| {
            let step = min(graph, step, last);
            let place = graph.sub(step, first);
            max(graph, place, now.zero)
        };
        let high = graph.add(low, now.one);
        let [low, high] = [low, high].map(|step| place(graph, step));
        let rows = mix(graph, all, 0, [low, high], share);
        let shape = [1, self.chunk(), self.decoder.joints];
        graph.reshape(rows, &shape)
    }
}

/// The smaller of two integers: ONNX Runtime 1.31's Min and Max of int64 are wrong beyond 2^31.
fn min(graph: &mut Graph, a: Value, b: Value) -> Value {
    let is_less = graph.less(a, b);
    graph.select(is_less, a, b)
}

fn max(graph: &mut Graph, a: Value, b: Value) -> Value {
    let is_less = graph.less(a, b);
    graph.select(is_less, b, a)
}

fn flat(graph: &mut Graph, x: Value) -> Value {
    let elements = graph.ty(x).elements();
    graph.reshape(x, &[elements])
}

/// Where the stream stands in a chunk; all are integers, of shape [1] but for `rows`.
struct Position {
    zero: Value,
    one: Value,
    /// Chunks and rows before this one, and rows with it.
    chunks: Value,
    total: Value,
    /// Steps made before this chunk.
    steps: Value,
    /// Features with this chunk.
    features: Value,
    /// Target rows whose angles this chunk gives [chunk]; negative where there is no prediction.
    rows: Value,
}

impl Position {
    fn new(graph: &mut Graph, grid: &Grid, position: Value, count: Value) -> Self {
        let parts = graph.split(position, 0, &[1, 1, 1]);
        let [chunks, before, steps] = parts[..] else { unreachable!("three integers") };
        let [zero, one] = [0, 1].map(|value| graph.i64s(&[value]));
        let total = graph.add(before, count);
        let (behind, stride) = (graph.i64s(&[grid.stride - 1 - grid.context]), graph.i64s(&[grid.stride]));
        let complete = graph.add(total, behind);
        let complete = max(graph, complete, zero);
        let features = graph.div(complete, stride);
        let chunk = graph.i64s(&[grid.chunk]);
        let first = graph.mul(chunks, chunk);
        let offsets: Vec<_> = (0..grid.chunk).map(|i| i - grid.lag - grid.context).collect();
        let offsets = graph.i64s(&offsets);
        let rows = graph.add(first, offsets);
        Self { zero, one, chunks, total, steps, features, rows }
    }

    /// For steps [n]: the feature at or before each, how far it lies behind it (float32), and the last feature it needs.
    fn places(&self, graph: &mut Graph, grid: &Grid, steps: Value) -> [Value; 3] {
        let [spacing, unit] = [grid.features - 1, grid.steps - 1].map(|value| graph.i64s(&[value]));
        let at = graph.mul(steps, spacing);
        let [low, share] = quotient(graph, at, unit, grid.steps - 1);
        let rest = graph.modulo(at, unit);
        let more = min(graph, rest, self.one);
        let needed = graph.add(low, more);
        [low, share, needed]
    }

    /// Places of these features among the chunk's, of which the first is the last one of the chunk before. What lies before
    /// the stream's first real feature counts from below zero.
    fn within_chunk(&self, graph: &mut Graph, grid: &Grid, features: Value) -> Value {
        let [fresh, first] = [grid.fresh, -grid.context / grid.stride - 1].map(|value| graph.i64s(&[value]));
        let before = graph.mul(self.chunks, fresh);
        let before = graph.add(before, first);
        graph.sub(features, before)
    }

    /// Steps made with this chunk.
    fn steps_after(&self, graph: &mut Graph, grid: &Grid) -> Value {
        let last = graph.sub(self.features, self.one);
        let [spacing, unit] = [grid.features - 1, grid.steps - 1].map(|value| graph.i64s(&[value]));
        let at = graph.mul(last, unit);
        let at = max(graph, at, self.zero);
        let steps = graph.div(at, spacing);
        // The first feature makes the first step.
        let first = min(graph, self.features, self.one);
        graph.add(steps, first)
    }

    /// Rows of `x` along `axis` at `low` and the one behind, mixed; both within its bounds whatever `low` is.
    fn between(&self, graph: &mut Graph, x: Value, axis: usize, low: Value, share: Value) -> Value {
        let last = graph.i64s(&[graph.shape(x)[axis] as i64 - 1]);
        let high = graph.add(low, self.one);
        let places = [low, high].map(|place| {
            let place = min(graph, place, last);
            max(graph, place, self.zero)
        });
        mix(graph, x, axis, places, share)
    }

    /// For this chunk's rows: the step at or before each, and how far it lies behind it (float32).
    fn positions(&self, graph: &mut Graph, grid: &Grid) -> [Value; 2] {
        let last = graph.i64s(&[grid.rows - 1]);
        let inside = min(graph, self.rows, last);
        let [twice, steps, rows] = [2, grid.steps, grid.rows - grid.steps].map(|value| graph.i64s(&[value]));
        // (2 row + 1) steps - rows
        let inside = graph.mul(inside, twice);
        let inside = graph.mul(inside, steps);
        let inside = graph.sub(inside, rows);
        let unit = graph.i64s(&[grid.stride * (grid.features - 1)]);
        let inside = graph.mul(inside, unit);
        let inside = max(graph, inside, self.zero);
        let behind = graph.sub(self.rows, last);
        let behind = max(graph, behind, self.zero);
        let growth = graph.i64s(&[grid.beyond()]);
        let behind = graph.mul(behind, growth);
        let at = graph.add(inside, behind);
        let denominator = graph.i64s(&[grid.denominator()]);
        quotient(graph, at, denominator, grid.denominator())
    }

    /// The newest of the poses `all` [kept + made, joints]: of what a chunk can make, what was made.
    fn kept(&self, graph: &mut Graph, grid: &Grid, after: Value, all: Value) -> Value {
        let made = graph.sub(after, self.steps);
        let index: Vec<_> = (0..grid.kept).collect();
        let index = graph.i64s(&index);
        let index = graph.add(index, made);
        graph.gather(all, index, 0)
    }

    fn is_predicted(&self, graph: &mut Graph) -> Value {
        let minus_one = graph.i64s(&[-1]);
        let is = graph.greater(self.rows, minus_one);
        let rows = graph.shape(is)[0];
        graph.reshape(is, &[1, rows, 1])
    }

    fn next(&self, graph: &mut Graph, steps: Value) -> Value {
        let chunks = graph.add(self.chunks, self.one);
        graph.concat(&[chunks, self.total, steps], 0)
    }
}

/// Whole part of `at` / `divisor`, and the rest as a float32 share of it; `at` is not negative.
fn quotient(graph: &mut Graph, at: Value, divisor: Value, value: i64) -> [Value; 2] {
    let whole = graph.div(at, divisor);
    let rest = graph.modulo(at, divisor);
    let rest = graph.cast(rest, DType::F32);
    let scale = graph.scalar(1.0 / value as f32);
    [whole, graph.mul(rest, scale)]
}
