// Kernels of the fused operators on NVIDIA GPUs, compiled for the device at hand when a program first needs them.
//
// Row-major arrays; what is not there is null. Blocks have 256 threads.

// One row, blockIdx.x, and 256 columns of it, from 256 blockIdx.y on.
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

// The gradient of a layer normalization of `rows` rows: see LayerNormGradient in graph/operators/norm.rs. With xhat =
// (x - mean) / std and u = scale dy: dx = (u - mean(u) - xhat mean(u xhat)) / std, dscale = sum(dy xhat) and dbias =
// sum(dy).
#define LAYER_NORM_GRADIENT                                                                                            \
    const float *dy, const float *x, const float *scale, const float *mean, const float *inverse_std, float *dx,       \
        float *dscale, float *dbias, float *sums, unsigned columns, unsigned rows, unsigned parts

__device__ float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(0xffffffff, x, apart);
    return x;
}

// A warp for each row.
extern "C" __global__ void layer_norm_input_gradient(LAYER_NORM_GRADIENT) {
    const unsigned lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows || !dx)
        return;
    const float *own_dy = dy + row * columns, *own_x = x + row * columns;
    const float middle = mean[row], inverse = inverse_std[row];
    float level = 0.0f, slope = 0.0f;
    for (unsigned i = lane; i < columns; i += 32) {
        const float u = scale[i] * own_dy[i];
        level += u;
        slope += u * ((own_x[i] - middle) * inverse);
    }
    level = warp_sum(level) / columns;
    slope = warp_sum(slope) / columns;
    for (unsigned i = lane; i < columns; i += 32)
        dx[row * columns + i] = (scale[i] * own_dy[i] - level - (own_x[i] - middle) * inverse * slope) * inverse;
}

// dscale and dbias of each of `parts` parts of the rows, [parts, 2, columns]; a block has 256 columns of a part.
extern "C" __global__ void layer_norm_partial_sums(LAYER_NORM_GRADIENT) {
    const unsigned part = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= columns)
        return;
    const unsigned each = (rows + parts - 1) / parts, first = part * each;
    const unsigned end = first + each < rows ? first + each : rows;
    float own_scale = 0.0f, own_bias = 0.0f;
#pragma unroll 4
    for (unsigned row = first; row < end; row++) {
        const float gradient = dy[row * columns + column];
        own_scale += gradient * ((x[row * columns + column] - mean[row]) * inverse_std[row]);
        own_bias += gradient;
    }
    sums[2 * part * columns + column] = own_scale;
    sums[(2 * part + 1) * columns + column] = own_bias;
}

// Their sums over the parts; a block has 32 of the 2 columns, and eight threads for each.
extern "C" __global__ void layer_norm_sums(LAYER_NORM_GRADIENT) {
    __shared__ float shares[8][32];
    const unsigned lane = threadIdx.x % 32, share = threadIdx.x / 32, at = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (at < 2 * columns)
        for (unsigned part = share; part < parts; part += 8)
            sum += sums[2 * part * columns + at];
    shares[share][lane] = sum;
    __syncthreads();
    if (share > 0 || at >= 2 * columns)
        return;
    for (int other = 1; other < 8; other++)
        sum += shares[other][lane];
    float *out = at < columns ? dscale : dbias;
    if (out)
        out[at < columns ? at : at - columns] = sum;
}
