// What the texts of all regions use. Half-precision numbers are held as float, rounded, and lie in memory as two bytes.

#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

__device__ inline float from_bfloat16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
__device__ inline unsigned short to_bfloat16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
#else
    const unsigned bits = __float_as_uint(x);
    if (x != x)
        return 0x7fc0;
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}
__device__ inline float round_bfloat16(float x) { return from_bfloat16(to_bfloat16(x)); }
#ifdef __CUDACC_RTC__
__device__ inline float from_float16(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short to_float16(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif
__device__ inline float round_float16(float x) { return from_float16(to_float16(x)); }

__device__ inline float load_float32(const float *array, unsigned i) { return array[i]; }
__device__ inline float load_float16(const unsigned short *array, unsigned i) { return from_float16(array[i]); }
__device__ inline float load_bfloat16(const unsigned short *array, unsigned i) { return from_bfloat16(array[i]); }
__device__ inline long long load_int64(const long long *array, unsigned i) { return array[i]; }
__device__ inline bool load_bool(const unsigned char *array, unsigned i) { return array[i] != 0; }

__device__ inline void store_float32(float *array, unsigned i, float x) { array[i] = x; }
__device__ inline void store_float16(unsigned short *array, unsigned i, float x) { array[i] = to_float16(x); }
__device__ inline void store_bfloat16(unsigned short *array, unsigned i, float x) { array[i] = to_bfloat16(x); }
__device__ inline void store_int64(long long *array, unsigned i, long long x) { array[i] = x; }
__device__ inline void store_bool(unsigned char *array, unsigned i, bool x) { array[i] = x; }

// Some neighbours at once; the first lies at a multiple of their number.
template <int count, class T> struct alignas(count * sizeof(T)) Neighbours { T x[count]; };
#define LOADS(count, type, array_type, value_type)                                                                     \
    __device__ inline void load##count##_##type(const array_type *array, unsigned i, value_type *to) {                 \
        const Neighbours<count, array_type> all = *(const Neighbours<count, array_type> *)(array + i);                 \
        for (int k = 0; k < count; k++)                                                                                \
            to[k] = load_##type(all.x, k);                                                                             \
    }                                                                                                                  \
    __device__ inline void store##count##_##type(array_type *array, unsigned i, const value_type *from) {              \
        Neighbours<count, array_type> all;                                                                             \
        for (int k = 0; k < count; k++)                                                                                \
            store_##type(all.x, k, from[k]);                                                                           \
        *(Neighbours<count, array_type> *)(array + i) = all;                                                           \
    }
#define ALL_LOADS(count)                                                                                               \
    LOADS(count, float32, float, float)                                                                                \
    LOADS(count, float16, unsigned short, float)                                                                       \
    LOADS(count, bfloat16, unsigned short, float)                                                                      \
    LOADS(count, bool, unsigned char, bool)
ALL_LOADS(2)
ALL_LOADS(4)
LOADS(2, int64, long long, long long)
// Four of eight bytes are more than one access.
__device__ inline void load4_int64(const long long *array, unsigned i, long long *to) {
    load2_int64(array, i, to), load2_int64(array, i + 2, to + 2);
}
__device__ inline void store4_int64(long long *array, unsigned i, const long long *from) {
    store2_int64(array, i, from), store2_int64(array, i + 2, from + 2);
}

// What is not a number stays so.
__device__ inline float max_of(float a, float b) { return a != a || a > b ? a : b; }
__device__ inline float min_of(float a, float b) { return a != a || a < b ? a : b; }
__device__ inline float sum_of(float a, float b) { return a + b; }

__device__ inline float sign_of(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
__device__ inline float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float softplus_of(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ inline long long modulo_of(long long a, long long b) {
    const long long rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

// Reductions over the threads of a warp, over `threads` neighbours that are several warps of a block, and over every
// 32nd thread of a block of 32 `deep`. Every thread gets the result.
#define REDUCTION(name)                                                                                                \
    __device__ inline float warp_##name(float x) {                                                                     \
        for (int apart = 16; apart > 0; apart /= 2)                                                                    \
            x = name##_of(x, __shfl_xor_sync(0xffffffff, x, apart));                                                   \
        return x;                                                                                                      \
    }                                                                                                                  \
    template <int threads> __device__ inline float row_##name(float x) {                                               \
        __shared__ float parts[32];                                                                                    \
        x = warp_##name(x);                                                                                            \
        __syncthreads();                                                                                               \
        if (threadIdx.x % 32 == 0)                                                                                     \
            parts[threadIdx.x / 32] = x;                                                                               \
        __syncthreads();                                                                                               \
        const int first = threadIdx.x / threads * (threads / 32);                                                      \
        x = parts[first];                                                                                              \
        for (int warp = 1; warp < threads / 32; warp++)                                                                \
            x = name##_of(x, parts[first + warp]);                                                                     \
        return x;                                                                                                      \
    }                                                                                                                  \
    template <int deep> __device__ inline float down_##name(float x) {                                                 \
        __shared__ float parts[32 * deep];                                                                             \
        __syncthreads();                                                                                               \
        parts[threadIdx.x] = x;                                                                                        \
        __syncthreads();                                                                                               \
        x = parts[threadIdx.x % 32];                                                                                   \
        for (int i = 1; i < deep; i++)                                                                                 \
            x = name##_of(x, parts[threadIdx.x % 32 + 32 * i]);                                                        \
        return x;                                                                                                      \
    }
REDUCTION(sum)
REDUCTION(max)
REDUCTION(min)
