// Depthwise convolutions over one axis, channels last, and their gradients: x [batch, rows, channels], a weight
// [channels, taps], y [batch, places, channels]. cuDNN's own take several times as long.

#define DEPTHWISE_SHAPE                                                                                                \
    unsigned batch, unsigned rows, unsigned places, unsigned channels, unsigned taps, unsigned stride,                 \
        unsigned dilation, unsigned pad

// Neighbours along the rows that a thread has, and taps that one has the weight's gradient of.
#define DEPTHWISE_EACH 8
#define DEPTHWISE_TAPS 8
// Neighbours that a thread takes one after the other.
#define DEPTHWISE_RUN 16u

#define DEPTHWISE(type, array)                                                                                         \
    extern "C" __global__ void depthwise_##type(const array *x, const array *weight, array *y, DEPTHWISE_SHAPE) {      \
        const unsigned number = blockIdx.x * 256u + threadIdx.x, channel = number % channels;                          \
        const unsigned groups = (places + DEPTHWISE_EACH - 1) / DEPTHWISE_EACH, group = number / channels % groups;    \
        const unsigned example = number / channels / groups, first = group * DEPTHWISE_EACH;                           \
        if (example >= batch)                                                                                          \
            return;                                                                                                    \
        float sums[DEPTHWISE_EACH] = {};                                                                               \
        if (stride == 1 && dilation == 1) {                                                                            \
            /* What neighbours share is read once. */                                                                    \
            float window[DEPTHWISE_EACH];                                                                              \
            for (int k = 0; k < DEPTHWISE_EACH - 1; k++) {                                                             \
                const unsigned row = first + k - pad;                                                                  \
                window[k + 1] = row < rows ? load_##type(x, (example * rows + row) * channels + channel) : 0.0f;       \
            }                                                                                                          \
            for (unsigned tap = 0; tap < taps; tap++) {                                                                \
                const float w = load_##type(weight, channel * taps + tap);                                             \
                for (int k = 0; k < DEPTHWISE_EACH - 1; k++)                                                           \
                    window[k] = window[k + 1];                                                                         \
                const unsigned row = first + DEPTHWISE_EACH - 1 + tap - pad;                                           \
                window[DEPTHWISE_EACH - 1] =                                                                           \
                    row < rows ? load_##type(x, (example * rows + row) * channels + channel) : 0.0f;                   \
                for (int k = 0; k < DEPTHWISE_EACH; k++)                                                               \
                    sums[k] += w * window[k];                                                                          \
            }                                                                                                          \
        } else                                                                                                         \
        for (unsigned tap = 0; tap < taps; tap++) {                                                                    \
            const float w = load_##type(weight, channel * taps + tap);                                                 \
            for (unsigned k = 0; k < DEPTHWISE_EACH; k++) {                                                            \
                const unsigned row = (first + k) * stride + tap * dilation - pad;                                      \
                if (row < rows)                                                                                        \
                    sums[k] += w * load_##type(x, (example * rows + row) * channels + channel);                        \
            }                                                                                                          \
        }                                                                                                              \
        for (unsigned k = 0; k < DEPTHWISE_EACH && first + k < places; k++)                                            \
            store_##type(y, (example * places + first + k) * channels + channel, sums[k]);                             \
    }                                                                                                                  \
    extern "C" __global__ void depthwise_input_gradient_##type(const array *dy, const array *weight, array *dx,        \
                                                               DEPTHWISE_SHAPE) {                                      \
        const unsigned number = blockIdx.x * 256u + threadIdx.x, channel = number % channels;                          \
        const unsigned groups = (rows + DEPTHWISE_EACH - 1) / DEPTHWISE_EACH, group = number / channels % groups;      \
        const unsigned example = number / channels / groups, first = group * DEPTHWISE_EACH;                           \
        if (example >= batch)                                                                                          \
            return;                                                                                                    \
        float sums[DEPTHWISE_EACH] = {};                                                                               \
        if (stride == 1 && dilation == 1) {                                                                            \
            float window[DEPTHWISE_EACH];                                                                              \
            for (int k = 0; k < DEPTHWISE_EACH - 1; k++) {                                                             \
                const unsigned place = first + k + pad - (taps - 1);                                                   \
                window[k + 1] = place < places ? load_##type(dy, (example * places + place) * channels + channel) : 0.0f;\
            }                                                                                                          \
            for (unsigned tap = taps; tap-- > 0;) {                                                                    \
                const float w = load_##type(weight, channel * taps + tap);                                             \
                for (int k = 0; k < DEPTHWISE_EACH - 1; k++)                                                           \
                    window[k] = window[k + 1];                                                                         \
                const unsigned place = first + DEPTHWISE_EACH - 1 + pad - tap;                                         \
                window[DEPTHWISE_EACH - 1] =                                                                           \
                    place < places ? load_##type(dy, (example * places + place) * channels + channel) : 0.0f;          \
                for (int k = 0; k < DEPTHWISE_EACH; k++)                                                               \
                    sums[k] += w * window[k];                                                                          \
            }                                                                                                          \
        } else                                                                                                         \
        for (unsigned tap = 0; tap < taps; tap++) {                                                                    \
            const float w = load_##type(weight, channel * taps + tap);                                                 \
            for (unsigned k = 0; k < DEPTHWISE_EACH; k++) {                                                            \
                const unsigned from = first + k + pad - tap * dilation, place = from / stride;                         \
                if (first + k + pad >= tap * dilation && from % stride == 0 && place < places)                         \
                    sums[k] += w * load_##type(dy, (example * places + place) * channels + channel);                   \
            }                                                                                                          \
        }                                                                                                              \
        for (unsigned k = 0; k < DEPTHWISE_EACH && first + k < rows; k++)                                              \
            store_##type(dx, (example * rows + first + k) * channels + channel, sums[k]);                              \
    }                                                                                                                  \
    extern "C" __global__ void depthwise_weight_parts_##type(const array *x, const array *dy, float *sums,             \
                                                             DEPTHWISE_SHAPE) {                                        \
        __shared__ float own[8][32];                                                                                   \
        const unsigned lane = threadIdx.x % 32, share = threadIdx.x / 32, channel = blockIdx.x * 32u + lane;           \
        const unsigned chunks = (taps + DEPTHWISE_TAPS - 1) / DEPTHWISE_TAPS;                                          \
        const unsigned part = blockIdx.y / chunks, parts = gridDim.y / chunks;                                         \
        const unsigned start = blockIdx.y % chunks * DEPTHWISE_TAPS;                                                   \
        /* Each thread has runs of neighbours, all of one example. */                                                  \
        const unsigned run = DEPTHWISE_RUN, runs = (places + run - 1) / run;                                           \
        const unsigned all = batch * runs, each = (all + parts - 1) / parts, begin = part * each;                      \
        const unsigned end = begin + each < all ? begin + each : all;                                                  \
        float found[DEPTHWISE_TAPS] = {};                                                                              \
        for (unsigned number = begin + share; number < end && channel < channels; number += 8) {                       \
            const unsigned example = number / runs, from = number % runs * run;                                        \
            const array *own_dy = dy + (example * places) * channels + channel;                                        \
            const array *own_x = x + (example * rows) * channels + channel;                                            \
            if (stride == 1 && dilation == 1) {                                                                        \
                float window[DEPTHWISE_TAPS];                                                                          \
                for (int k = 0; k < DEPTHWISE_TAPS - 1; k++) {                                                         \
                    const unsigned row = from + start + k - pad;                                                       \
                    window[k + 1] = row < rows ? load_##type(own_x, row * channels) : 0.0f;                            \
                }                                                                                                      \
                for (unsigned place = from; place < from + run && place < places; place++) {                           \
                    const float gradient = load_##type(own_dy, place * channels);                                      \
                    for (int k = 0; k < DEPTHWISE_TAPS - 1; k++)                                                       \
                        window[k] = window[k + 1];                                                                     \
                    const unsigned row = place + start + DEPTHWISE_TAPS - 1 - pad;                                     \
                    window[DEPTHWISE_TAPS - 1] = row < rows ? load_##type(own_x, row * channels) : 0.0f;               \
                    for (int k = 0; k < DEPTHWISE_TAPS; k++)                                                           \
                        found[k] += gradient * window[k];                                                              \
                }                                                                                                      \
                continue;                                                                                              \
            }                                                                                                          \
            for (unsigned place = from; place < from + run && place < places; place++) {                               \
                const float gradient = load_##type(own_dy, place * channels);                                          \
                for (unsigned k = 0; k < DEPTHWISE_TAPS; k++) {                                                        \
                    const unsigned row = place * stride + (start + k) * dilation - pad;                                \
                    if (row < rows)                                                                                    \
                        found[k] += gradient * load_##type(own_x, row * channels);                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (unsigned k = 0; k < DEPTHWISE_TAPS; k++) {                                                                \
            __syncthreads();                                                                                           \
            own[share][lane] = found[k];                                                                               \
            __syncthreads();                                                                                           \
            float sum = 0.0f;                                                                                          \
            for (unsigned other = 0; other < 8; other++)                                                               \
                sum += own[other][lane];                                                                               \
            if (share == 0 && channel < channels && start + k < taps)                                                  \
                sums[(part * channels + channel) * taps + start + k] = sum;                                            \
        }                                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void depthwise_weight_sum_##type(const float *sums, array *dw, unsigned parts,               \
                                                           unsigned elements) {                                        \
        const unsigned at = blockIdx.x * 256u + threadIdx.x;                                                           \
        if (at >= elements)                                                                                            \
            return;                                                                                                    \
        float sum = 0.0f;                                                                                              \
        for (unsigned part = 0; part < parts; part++)                                                                  \
            sum += sums[part * elements + at];                                                                         \
        store_##type(dw, at, sum);                                                                                     \
    }
DEPTHWISE(float32, float)
DEPTHWISE(float16, unsigned short)
DEPTHWISE(bfloat16, unsigned short)
