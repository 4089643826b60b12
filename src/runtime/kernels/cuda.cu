// Kernels of the fused operators on NVIDIA GPUs, compiled for the device at hand when a program first needs them.
//
// Row-major arrays; what is not there is null. A block works on one row, blockIdx.x, and 256 columns of it,
// from 256 blockIdx.y on.

#define AT                                                                                                             \
    const unsigned row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;                                   \
    if (column >= columns)                                                                                             \
    return

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The cell of a long short-term memory: see LstmCell in graph/operators/cell.rs. Gates are the sum of up to three
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

// dy where y > 0, else slope dy; 0 for a slope of 0 whatever dy is.
extern "C" __global__ void relu_gradient(const float *dy, const float *y, float *dx, unsigned columns,
                                         unsigned elements, float slope) {
    AT;
    const unsigned at = row * columns + column;
    if (at < elements)
        dx[at] = y[at] > 0.0f ? dy[at] : slope == 0.0f ? 0.0f : slope * dy[at];
}
