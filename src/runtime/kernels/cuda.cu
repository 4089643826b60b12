// Kernels of the fused operators on NVIDIA GPUs, compiled for the device at hand when a program first needs them.
//
// Row-major arrays; what is not there is null. Blocks have 256 threads.

// One row, blockIdx.x, and 256 columns of it, from 256 blockIdx.y on.
#define AT                                                                                                             \
    const unsigned row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;                                   \
    if (column >= columns)                                                                                             \
    return

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The cell of a long short-term memory: see LstmCell in graph/operators/lstm_cell.rs. Gates are the sum of up to three
// arrays [rows, 4 columns]; of the second and third, row i begins i x stride elements after the first (0: one row).
extern "C" __global__ void lstm_cell(const float *gates, const float *before, const float *second, const float *third,
                                     float *hidden, float *cell, float *sigmoids, float *candidate, float *squashed,
                                     unsigned columns, unsigned second_stride, unsigned third_stride) {
    AT;
    float sums[4];
    for (int gate = 0; gate < 4; gate++) {
        const unsigned i = gate * columns + column;
        float sum = gates[4 * columns * row + i];
        if (second)
            sum += second[second_stride * row + i];
        if (third)
            sum += third[third_stride * row + i];
        sums[gate] = sum;
    }
    const unsigned at = row * columns + column, three = 3 * columns * row + column;
    const float input = sigmoid(sums[0]), forget = sigmoid(sums[1]), output = sigmoid(sums[2]), fresh = tanhf(sums[3]);
    const float state = forget * before[at] + input * fresh, squash = tanhf(state);
    if (hidden)
        hidden[at] = output * squash;
    if (cell)
        cell[at] = state;
    if (sigmoids) {
        sigmoids[three] = input;
        sigmoids[three + columns] = forget;
        sigmoids[three + 2 * columns] = output;
    }
    if (candidate)
        candidate[at] = fresh;
    if (squashed)
        squashed[at] = squash;
}

// Its gradient: see LstmCellGradient there. dh is the sum of one or two arrays.
extern "C" __global__ void lstm_cell_gradient(const float *dh, const float *dc, const float *sigmoids,
                                              const float *candidate, const float *squashed, const float *before,
                                              const float *second, float *gates, float *state, unsigned columns) {
    AT;
    const unsigned at = row * columns + column, three = 3 * columns * row + column, four = 4 * columns * row + column;
    const float input = sigmoids[three], forget = sigmoids[three + columns], output = sigmoids[three + 2 * columns];
    const float fresh = candidate[at], squash = squashed[at], down = second ? dh[at] + second[at] : dh[at];
    const float dcell = dc[at] + down * output * (1.0f - squash * squash);
    if (gates) {
        gates[four] = dcell * fresh * input * (1.0f - input);
        gates[four + columns] = dcell * before[at] * forget * (1.0f - forget);
        gates[four + 2 * columns] = down * squash * output * (1.0f - output);
        gates[four + 3 * columns] = dcell * input * (1.0f - fresh * fresh);
    }
    if (state)
        state[at] = dcell * forget;
}

// A recurrent layer's pass over time: see Recurrence in graph/operators/recurrence.rs. A block takes ROWS rows of the batch
// through all steps; its threads have the hidden units. Scratch: the weights turned to [hidden, gates hidden], the hidden
// states before and after a step, and the cell states, [batch, hidden] each.
#define RECURRENCE                                                                                                     \
    const float *shares, const float *weights, const float *start, const float *fourth, float *states, float *last,    \
        float *last_cell, float *kept, float *scratch, unsigned steps, unsigned batch, unsigned hidden, unsigned kind, \
        unsigned reverse, unsigned units, unsigned tile, unsigned at_once
#define ROWS 2

enum { LSTM, GRU, TANH, RELU };

__device__ unsigned gates_of(unsigned kind) { return kind == LSTM ? 4 : kind == GRU ? 3 : 1; }

extern "C" __global__ void recurrence_weights(RECURRENCE) {
    const unsigned width = gates_of(kind) * hidden, at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < width * hidden)
        scratch[at % hidden * width + at / hidden] = weights[at];
}

// Unit `unit` of row `row` behind step `t`, from its products with the state before.
template <int KIND>
__device__ float recurrence_cell(const float *products, const float *shares, const float *fourth, float before,
                                 float *cell, float *kept, unsigned hidden, unsigned unit) {
    if (KIND == LSTM) {
        float sums[4];
        for (int gate = 0; gate < 4; gate++)
            sums[gate] = products[gate] + shares[gate * hidden + unit];
        const float input = sigmoid(sums[0]), forget = sigmoid(sums[1]), output = sigmoid(sums[2]);
        const float fresh = tanhf(sums[3]), earlier = *cell, state = forget * earlier + input * fresh;
        const float squash = tanhf(state), numbers[6] = {input, forget, output, fresh, earlier, squash};
        if (kept)
            for (int i = 0; i < 6; i++)
                kept[i * hidden + unit] = numbers[i];
        *cell = state;
        return output * squash;
    }
    if (KIND == GRU) {
        const float update = sigmoid(products[0] + shares[unit]);
        const float reset = sigmoid(products[1] + shares[hidden + unit]);
        const float remembered = products[2] + fourth[unit];
        const float fresh = tanhf(shares[2 * hidden + unit] + reset * remembered);
        const float numbers[4] = {update, reset, fresh, remembered};
        if (kept)
            for (int i = 0; i < 4; i++)
                kept[i * hidden + unit] = numbers[i];
        return (1.0f - update) * fresh + update * before;
    }
    const float sum = products[0] + shares[unit];
    return KIND == TANH ? tanhf(sum) : (sum < 0.0f ? 0.0f : sum);
}

template <int KIND, int gates, int numbers> __device__ void recurrence_pass(RECURRENCE) {
    const unsigned first = blockIdx.x * ROWS, width = gates * hidden, all = batch * hidden;
    const unsigned rows = batch - first < ROWS ? batch - first : ROWS;
    float *state = scratch + width * hidden, *cells = state + 2 * all;
    for (unsigned i = first * hidden + threadIdx.x; i < (first + rows) * hidden; i += blockDim.x) {
        state[i] = start[i];
        cells[i] = KIND == LSTM ? fourth[i] : 0.0f;
    }
    __syncthreads();
    for (unsigned step = 0; step < steps; step++) {
        const unsigned t = reverse ? steps - 1 - step : step;
        const float *before = state + step % 2 * all;
        float *after = state + (step + 1) % 2 * all;
        for (unsigned unit = threadIdx.x; unit < hidden; unit += blockDim.x) {
            float products[ROWS][gates] = {};
            // Rows that are not there are computed as the last one.
            const float *own[ROWS];
            for (unsigned r = 0; r < ROWS; r++)
                own[r] = before + (first + (r < rows ? r : rows - 1)) * hidden;
#pragma unroll 8
            for (unsigned k = 0; k < hidden; k++) {
                const float *weight = scratch + k * width + unit;
                for (int gate = 0; gate < gates; gate++)
                    for (unsigned r = 0; r < ROWS; r++)
                        products[r][gate] += weight[gate * hidden] * own[r][k];
            }
            for (unsigned r = 0; r < rows; r++) {
                const unsigned row = t * batch + first + r, at = (first + r) * hidden + unit;
                const float made = recurrence_cell<KIND>(products[r], shares + row * width, fourth, before[at], cells + at,
                                                         kept ? kept + row * numbers * hidden : nullptr, hidden, unit);
                after[at] = made;
                if (states)
                    states[row * hidden + unit] = made;
            }
        }
        __syncthreads();
    }
    for (unsigned i = first * hidden + threadIdx.x; i < (first + rows) * hidden; i += blockDim.x) {
        if (last)
            last[i] = state[steps % 2 * all + i];
        if (last_cell)
            last_cell[i] = cells[i];
    }
}

#define OF_KIND(pass, ...)                                                                                             \
    if (kind == LSTM)                                                                                                  \
        pass<LSTM, 4, 6>(__VA_ARGS__);                                                                                 \
    else if (kind == GRU)                                                                                              \
        pass<GRU, 3, 4>(__VA_ARGS__);                                                                                  \
    else if (kind == TANH)                                                                                             \
        pass<TANH, 1, 1>(__VA_ARGS__);                                                                                 \
    else                                                                                                               \
        pass<RELU, 1, 1>(__VA_ARGS__)

extern "C" __global__ void recurrence(RECURRENCE) {
    OF_KIND(recurrence_pass, shares, weights, start, fourth, states, last, last_cell, kept, scratch, steps, batch, hidden,
            kind, reverse, units, tile, at_once);
}

// The same by blocks that are all there at once. Block (i, j) has `units` units of `tile` rows of the batch, keeps those units'
// weights in shared memory through all steps, and reads the other units' states of its rows, which the blocks of a row of
// the grid wait for after every step. Scratch: counters of the blocks that have arrived, which begin at 0; the hidden states
// before and after a step and the cell states, [batch, hidden] each.
#ifndef SHARED_POOL
#define SHARED_POOL extern __shared__ float pool[];
#endif
#define COUNTERS 256
// Rows of which a thread has the products with its unit's weights.
#define MEMBERS 4

extern "C" __global__ void recurrence_clear(RECURRENCE) { scratch[threadIdx.x] = 0.0f; }

// Waits until `goal` blocks have been here.
__device__ void meet(float *counter, unsigned goal) {
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned *count = (unsigned *)counter;
        __threadfence();
        atomicAdd(count, 1u);
        while (*(volatile unsigned *)count < goal)
            ;
        __threadfence();
    }
    __syncthreads();
}

// Rows `first` to `first` + `tile` of [batch, width], columns from `column` on, to shared memory [tile, hidden + 1].
__device__ void read_tile(float *to, const float *from, unsigned first, unsigned tile, unsigned batch, unsigned width,
                          unsigned column, unsigned hidden) {
    // A warp reads a row, some elements ahead of what it stores.
    const int AHEAD = 8;
    for (unsigned row = threadIdx.x / 32; row < tile; row += blockDim.x / 32) {
        const bool there = first + row < batch;
        const float *own = from + (first + row) * width + column;
        for (unsigned start = threadIdx.x % 32; start < hidden; start += 32 * AHEAD) {
            float read[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                read[i] = there && start + 32 * i < hidden ? __ldcg(own + start + 32 * i) : 0.0f;
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (start + 32 * i < hidden)
                    to[row * (hidden + 1) + start + 32 * i] = read[i];
        }
    }
}

// Adds to `sums` the products of MEMBERS rows of a tile with `gates` columns of weights [hidden, gates, units], over this
// thread's share of the hidden units.
template <int gates>
__device__ void add_products(float (&sums)[MEMBERS][gates], const float *tile_rows, const float *weights,
                             unsigned hidden, unsigned units, unsigned unit, unsigned share, unsigned shares) {
#pragma unroll 4
    for (unsigned k = share; k < hidden; k += shares) {
        float own[MEMBERS];
        for (int r = 0; r < MEMBERS; r++)
            own[r] = tile_rows[r * (hidden + 1) + k];
        for (int gate = 0; gate < gates; gate++) {
            const float weight = weights[(k * gates + gate) * units + unit];
            for (int r = 0; r < MEMBERS; r++)
                sums[r][gate] += weight * own[r];
        }
    }
}

template <int KIND, int gates, int numbers> __device__ void recurrence_together_pass(RECURRENCE) {
    SHARED_POOL
    const unsigned width = gates * hidden, all = batch * hidden;
    const unsigned first_unit = blockIdx.x * units, first_row = blockIdx.y * tile;
    float *own_weights = pool, *rows = own_weights + width * units, *parts = rows + tile * (hidden + 1);
    float *counter = scratch + blockIdx.y, *state = scratch + COUNTERS, *cells = state + 2 * all;
    const unsigned teams = tile / MEMBERS * units, splits = blockDim.x / teams;
    const unsigned share = threadIdx.x / teams, unit_of = threadIdx.x % units;
    const unsigned member = threadIdx.x % teams / units * MEMBERS;
    for (unsigned i = threadIdx.x; i < width * units; i += blockDim.x) {
        const unsigned unit = first_unit + i % units, gate = i / units % gates, k = i / (units * gates);
        own_weights[i] = unit < hidden ? weights[(gate * hidden + unit) * hidden + k] : 0.0f;
    }
    for (unsigned i = threadIdx.x; i < tile * units; i += blockDim.x) {
        const unsigned row = first_row + i / units, unit = first_unit + i % units, at = row * hidden + unit;
        if (row < batch && unit < hidden) {
            state[at] = start[at];
            cells[at] = KIND == LSTM ? fourth[at] : 0.0f;
        }
    }
    meet(counter, gridDim.x);
    for (unsigned step = 0; step < steps; step++) {
        const unsigned t = reverse ? steps - 1 - step : step;
        const float *before = state + step % 2 * all;
        float *after = state + (step + 1) % 2 * all;
        read_tile(rows, before, first_row, tile, batch, hidden, 0, hidden);
        __syncthreads();
        if (share < splits) {
            float sums[MEMBERS][gates] = {};
            add_products<gates>(sums, rows + member * (hidden + 1), own_weights, hidden, units, unit_of, share, splits);
            for (int r = 0; r < MEMBERS; r++)
                for (int gate = 0; gate < gates; gate++)
                    parts[((share * tile + member + r) * gates + gate) * units + unit_of] = sums[r][gate];
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < tile * units; i += blockDim.x) {
            const unsigned row = first_row + i / units, unit = first_unit + i % units, at = row * hidden + unit;
            if (row >= batch || unit >= hidden)
                continue;
            float products[gates] = {};
            for (unsigned s = 0; s < splits; s++)
                for (int gate = 0; gate < gates; gate++)
                    products[gate] += parts[((s * tile + i / units) * gates + gate) * units + i % units];
            const unsigned place = t * batch + row;
            const float made = recurrence_cell<KIND>(products, shares + place * width, fourth,
                                                     rows[i / units * (hidden + 1) + unit], cells + at,
                                                     kept ? kept + place * numbers * hidden : nullptr, hidden, unit);
            after[at] = made;
            if (states)
                states[place * hidden + unit] = made;
            if (last && step == steps - 1)
                last[at] = made;
            if (last_cell && step == steps - 1)
                last_cell[at] = cells[at];
        }
        meet(counter, gridDim.x * (step + 2));
    }
}

extern "C" __global__ void recurrence_together(RECURRENCE) {
    OF_KIND(recurrence_together_pass, shares, weights, start, fourth, states, last, last_cell, kept, scratch, steps, batch,
            hidden, kind, reverse, units, tile, at_once);
}

// Its gradient: see RecurrenceGradient there. Scratch: gradients of the state and of the cell state [batch, hidden], and of a
// step's products [batch, gates hidden].
#define RECURRENCE_GRADIENT                                                                                            \
    const float *dy, const float *dlast, const float *dlast_cell, const float *weights, const float *kept,             \
        const float *states, const float *start, const float *fourth, float *dshares, float *dproducts, float *dstart, \
        float *dstart_cell, float *scratch, unsigned steps, unsigned batch, unsigned hidden, unsigned kind,            \
        unsigned reverse, unsigned units, unsigned tile, unsigned at_once

// What a unit's gates get from `down`, the gradient of its state: `inputs` of what is given to them, `products` of what the
// state before gives to them. Gives what the state before gets beside that.
template <int KIND>
__device__ float recurrence_cell_gradient(float down, float *cell, const float *kept, float state, float before,
                                          float *inputs, float *products, unsigned hidden, unsigned unit) {
    if (KIND == LSTM) {
        float k[6];
        for (int i = 0; i < 6; i++)
            k[i] = kept[i * hidden + unit];
        const float input = k[0], forget = k[1], output = k[2], fresh = k[3], earlier = k[4], squash = k[5];
        const float dcell = *cell + down * output * (1.0f - squash * squash);
        inputs[0] = dcell * fresh * input * (1.0f - input);
        inputs[1] = dcell * earlier * forget * (1.0f - forget);
        inputs[2] = down * squash * output * (1.0f - output);
        inputs[3] = dcell * input * (1.0f - fresh * fresh);
        for (int gate = 0; gate < 4; gate++)
            products[gate] = inputs[gate];
        *cell = dcell * forget;
        return 0.0f;
    }
    if (KIND == GRU) {
        const float update = kept[unit], reset = kept[hidden + unit], fresh = kept[2 * hidden + unit];
        const float remembered = kept[3 * hidden + unit], dfresh = down * (1.0f - update) * (1.0f - fresh * fresh);
        products[0] = inputs[0] = down * (before - fresh) * update * (1.0f - update);
        products[1] = inputs[1] = dfresh * remembered * reset * (1.0f - reset);
        inputs[2] = dfresh;
        products[2] = dfresh * reset;
        return down * update;
    }
    products[0] = inputs[0] = down * (KIND == TANH ? 1.0f - state * state : state > 0.0f ? 1.0f : 0.0f);
    return 0.0f;
}

template <int KIND, int gates, int numbers> __device__ void recurrence_pass_back(RECURRENCE_GRADIENT) {
    const unsigned first = blockIdx.x * ROWS, width = gates * hidden, all = batch * hidden;
    const unsigned rows = batch - first < ROWS ? batch - first : ROWS;
    float *dstate = scratch, *dcells = scratch + all, *dgates = scratch + 2 * all;
    for (unsigned i = first * hidden + threadIdx.x; i < (first + rows) * hidden; i += blockDim.x) {
        dstate[i] = dlast[i];
        dcells[i] = dlast_cell[i];
    }
    __syncthreads();
    for (unsigned step = steps; step-- > 0;) {
        const unsigned t = reverse ? steps - 1 - step : step;
        const float *earlier = step == 0 ? start : states + (reverse ? t + 1 : t - 1) * all;
        for (unsigned unit = threadIdx.x; unit < hidden; unit += blockDim.x)
            for (unsigned r = 0; r < rows; r++) {
                const unsigned row = t * batch + first + r, at = (first + r) * hidden + unit;
                float inputs[gates], products[gates];
                dstate[at] = recurrence_cell_gradient<KIND>(
                    dstate[at] + dy[row * hidden + unit], dcells + at, kept + row * numbers * hidden,
                    states[row * hidden + unit], earlier[at], inputs, products, hidden, unit);
                for (int gate = 0; gate < gates; gate++) {
                    const unsigned i = gate * hidden + unit;
                    dgates[(first + r) * width + i] = products[gate];
                    if (dshares)
                        dshares[row * width + i] = inputs[gate];
                    if (dproducts)
                        dproducts[row * width + i] = KIND == GRU ? products[gate] : 0.0f;
                }
            }
        __syncthreads();
        for (unsigned unit = threadIdx.x; unit < hidden; unit += blockDim.x) {
            float sums[ROWS] = {};
            const float *own[ROWS];
            for (unsigned r = 0; r < ROWS; r++)
                own[r] = dgates + (first + (r < rows ? r : rows - 1)) * width;
#pragma unroll 8
            for (unsigned j = 0; j < width; j++)
                for (unsigned r = 0; r < ROWS; r++)
                    sums[r] += own[r][j] * weights[j * hidden + unit];
            for (unsigned r = 0; r < rows; r++)
                dstate[(first + r) * hidden + unit] += sums[r];
        }
        __syncthreads();
    }
    for (unsigned i = first * hidden + threadIdx.x; i < (first + rows) * hidden; i += blockDim.x) {
        if (dstart)
            dstart[i] = dstate[i];
        if (dstart_cell)
            dstart_cell[i] = dcells[i];
    }
}

extern "C" __global__ void recurrence_gradient(RECURRENCE_GRADIENT) {
    OF_KIND(recurrence_pass_back, dy, dlast, dlast_cell, weights, kept, states, start, fourth, dshares, dproducts, dstart,
            dstart_cell, scratch, steps, batch, hidden, kind, reverse, units, tile, at_once);
}

// The same by blocks that are all there at once, as above. Scratch: counters; gradients of the products of two steps that
// follow each other, [batch, gates hidden] each; gradients of the state and of the cell state. Gates are read `at_once`.
extern "C" __global__ void recurrence_gradient_clear(RECURRENCE_GRADIENT) { scratch[threadIdx.x] = 0.0f; }

template <int KIND, int gates, int numbers> __device__ void recurrence_together_back(RECURRENCE_GRADIENT) {
    SHARED_POOL
    const unsigned width = gates * hidden, all = batch * hidden;
    const unsigned first_unit = blockIdx.x * units, first_row = blockIdx.y * tile;
    float *own_weights = pool, *rows = own_weights + width * units, *parts = rows + at_once * tile * (hidden + 1);
    float *counter = scratch + blockIdx.y, *dgates = scratch + COUNTERS, *dstate = dgates + 2 * batch * width;
    float *dcells = dstate + all;
    const unsigned teams = tile / MEMBERS * units, splits = blockDim.x / teams;
    const unsigned share = threadIdx.x / teams, unit_of = threadIdx.x % units;
    const unsigned member = threadIdx.x % teams / units * MEMBERS;
    for (unsigned i = threadIdx.x; i < width * units; i += blockDim.x) {
        const unsigned unit = first_unit + i % units;
        own_weights[i] = unit < hidden ? weights[i / units * hidden + unit] : 0.0f;
    }
    for (unsigned i = threadIdx.x; i < tile * units; i += blockDim.x) {
        const unsigned row = first_row + i / units, unit = first_unit + i % units, at = row * hidden + unit;
        if (row < batch && unit < hidden) {
            dstate[at] = dlast[at];
            dcells[at] = dlast_cell[at];
        }
    }
    __syncthreads();
    for (unsigned step = steps; step-- > 0;) {
        const unsigned t = reverse ? steps - 1 - step : step;
        const float *earlier = step == 0 ? start : states + (reverse ? t + 1 : t - 1) * all;
        float *exchange = dgates + step % 2 * batch * width;
        for (unsigned i = threadIdx.x; i < tile * units; i += blockDim.x) {
            const unsigned own = first_row + i / units, unit = first_unit + i % units, at = own * hidden + unit;
            if (own >= batch || unit >= hidden)
                continue;
            const unsigned row = t * batch + own;
            float inputs[gates], products[gates];
            dstate[at] = recurrence_cell_gradient<KIND>(dstate[at] + dy[row * hidden + unit], dcells + at,
                                                        kept + row * numbers * hidden, states[row * hidden + unit],
                                                        earlier[at], inputs, products, hidden, unit);
            for (int gate = 0; gate < gates; gate++) {
                const unsigned place = gate * hidden + unit;
                exchange[own * width + place] = products[gate];
                if (dshares)
                    dshares[row * width + place] = inputs[gate];
                if (dproducts)
                    dproducts[row * width + place] = KIND == GRU ? products[gate] : 0.0f;
            }
        }
        meet(counter, gridDim.x * (steps - step));
        float sums[MEMBERS][1] = {};
        const unsigned plane = tile * (hidden + 1);
        for (unsigned first = 0; first < gates; first += at_once) {
            const unsigned end = first + at_once < gates ? first + at_once : gates;
            for (unsigned gate = first; gate < end; gate++)
                read_tile(rows + (gate - first) * plane, exchange, first_row, tile, batch, width, gate * hidden, hidden);
            __syncthreads();
            for (unsigned gate = first; gate < end && share < splits; gate++)
                add_products<1>(sums, rows + (gate - first) * plane + member * (hidden + 1),
                                own_weights + gate * hidden * units, hidden, units, unit_of, share, splits);
            __syncthreads();
        }
        if (share < splits)
            for (int r = 0; r < MEMBERS; r++)
                parts[(share * tile + member + r) * units + unit_of] = sums[r][0];
        __syncthreads();
        for (unsigned i = threadIdx.x; i < tile * units; i += blockDim.x) {
            const unsigned row = first_row + i / units, unit = first_unit + i % units, at = row * hidden + unit;
            if (row >= batch || unit >= hidden)
                continue;
            float sum = dstate[at];
            for (unsigned s = 0; s < splits; s++)
                sum += parts[(s * tile + i / units) * units + i % units];
            dstate[at] = sum;
            if (dstart && step == 0)
                dstart[at] = sum;
            if (dstart_cell && step == 0)
                dstart_cell[at] = dcells[at];
        }
        __syncthreads();
    }
}

extern "C" __global__ void recurrence_together_gradient(RECURRENCE_GRADIENT) {
    OF_KIND(recurrence_together_back, dy, dlast, dlast_cell, weights, kept, states, start, fourth, dshares, dproducts,
            dstart, dstart_cell, scratch, steps, batch, hidden, kind, reverse, units, tile, at_once);
}
