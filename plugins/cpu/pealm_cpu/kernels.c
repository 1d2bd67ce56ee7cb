/* Loops for CPUs that torch has no fast function for, and a list of such operations in one call. See kernels.py and
   record_in_c.py. Numbers are fp32. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 8192 /* bytes of a matrix that are fetched before they are needed */

static inline void fetch(const void *address, long bytes)
{
    for (long i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)address + AHEAD + i, 0, 2);
}

/* Multiply x (rows, k) by an int8 matrix w (n, k), both in whole numbers, and by unit (n,); add bias (n,) unless it is
   NULL: y (rows, n). Each row of x is rounded to 127ths of its largest number; offsets (n,): 128 times the sum of each
   row of w. Compilers turn the innermost loop into the processor's dot products of unsigned by signed bytes, so 0 of x is
   stored as 128. Returns 0, or 1 if there is no memory. */
int int8_linear(const float *x, const int8_t *w, const int32_t *offsets, const float *unit, const float *bias,
                float *y, long rows, long n, long k, int threads)
{
    uint8_t *q = malloc(rows * k);
    float *size = malloc(rows * sizeof *size);
    if (q && size) {
        for (long row = 0; row < rows; row++) {
            const float *from = x + row * k;
            uint32_t most = 0x2b8cbccc, bits; /* 1e-12; non-negative floats sort like their bits, NaN last */
            for (long j = 0; j < k; j++) {
                memcpy(&bits, from + j, sizeof bits);
                bits &= 0x7fffffff;
                most = bits > most ? bits : most;
            }
            memcpy(size + row, &most, sizeof most);
            for (long j = 0; j < k; j++)
                q[row * k + j] = (uint8_t)((int32_t)rintf(from[j] / size[row] * 127) + 128);
        }
        #pragma omp parallel for num_threads(threads)
        for (long i = 0; i < n; i += 4) { /* four rows of w at a time: a sum does not wait for its last step */
            long more = n - i < 4 ? n - i : 4;
            const int8_t *b0 = w + i * k, *b1 = b0 + (more > 1) * k, *b2 = b1 + (more > 2) * k, *b3 = b2 + (more > 3) * k;
            fetch(b0, more * k);
            for (long row = 0; row < rows; row++) {
                const uint8_t *a = q + row * k;
                int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
                for (long j = 0; j < k; j++) {
                    sum0 += a[j] * b0[j];
                    sum1 += a[j] * b1[j];
                    sum2 += a[j] * b2[j];
                    sum3 += a[j] * b3[j];
                }
                int32_t sum[4] = {sum0, sum1, sum2, sum3};
                for (long r = 0; r < more; r++) {
                    float product = (float)(sum[r] - offsets[i + r]) * unit[i + r] * size[row];
                    y[row * n + i + r] = bias ? bias[i + r] + product : product;
                }
            }
        }
    }
    int failed = !q || !size;
    free(q);
    free(size);
    return failed;
}

#if defined(__AVX512F__)
#define LANES 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#else
#define LANES 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#endif
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t places __attribute__((vector_size(4 * LANES)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif
#define UNROLL _Pragma("GCC unroll 16")

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* The products of LANES / r rows of w and r rows of x, each of k numbers, into out: r side by side. Rows that do not
   exist are read as the last one that does. Every sum is added up in the same order, whatever r is. */
static inline __attribute__((always_inline)) void products(
    const float *x, long rows, const float *w, long more, long stride, long k, float *out, const int r)
{
    floats sums[LANES] = {{0}};
    long j = 0;
    for (; j + LANES <= k; j += LANES)
        UNROLL for (int a = 0; a < LANES / r; a++) {
            const float *from = w + (a < more ? a : more - 1) * stride + j;
            floats own = *(const floats *)from;
            __builtin_prefetch(from + LANES / r * stride, 0, 2); /* of the next rows */
            UNROLL for (int b = 0; b < r; b++)
                sums[a * r + b] += own * *(const floats *)(x + (b < rows ? b : rows - 1) * k + j);
        }
    UNROLL for (int many = LANES / 2; many; many /= 2)
        UNROLL for (int i = 0; i < many; i++)
            sums[i] = PICK(sums[2 * i], sums[2 * i + 1], EVEN) + PICK(sums[2 * i], sums[2 * i + 1], ODD);
    *(floats *)out = sums[0];
    for (; j < k; j++)
        for (int i = 0; i < LANES; i++) {
            long a = i / r < more ? i / r : more - 1, b = i % r < rows ? i % r : rows - 1;
            out[i] += w[a * stride + j] * x[b * k + j];
        }
}

/* y = x w' + bias: x (rows, k), w (n, k), y (rows, n); bias (n,) may be NULL. Up to eight rows: they take the time of
   one. */
void linear(const float *x, const float *w, const float *bias, float *y, long rows, long n, long k, int threads)
{
    const long together = rows > 1 ? LANES / 8 : LANES;
    #pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i += together) {
        long more = n - i < together ? n - i : together;
        float sums[LANES];
        if (rows == 1)
            products(x, 1, w + i * k, more, k, k, sums, 1);
        else
            products(x, rows, w + i * k, more, k, k, sums, 8);
        for (long b = 0; b < rows; b++)
            for (long a = 0; a < more; a++)
                y[b * n + i + a] = sums[rows == 1 ? a : a * 8 + b] + (bias ? bias[i + a] : 0);
    }
}

/* e^x to 2 units in the last place, in a form that compilers vectorize: 2^n times a polynomial. */
static inline float exponential(float x)
{
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    float n = rintf(x * 1.44269504f), r = x - n * 0.693145752f - n * 1.42860677e-6f, power;
    float p = 1 + r * (1 + r * (0.5f + r * (0.166666657f + r * (0.0416664183f + r * (0.00833353419f + r * 0.00139305181f)))));
    int32_t bits = ((int32_t)n + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

enum { COPY, ADD, SUB, MUL, DIV, SILU, GELU_TANH, RELU, RMS_NORM, LAYER_NORM, LINEAR, INT8_LINEAR, STORE, ATTEND };

typedef struct {
    int32_t kind, keys;
    int64_t size[4], strides[4][4]; /* up to four dimensions; of the result and of the inputs */
    void *result;
    const void *input[5];
    double number;
} operation;

/* Element by element: COPY to RELU. Numbers side by side are computed together. */
static void elements(const operation *o)
{
    const int64_t *s = o->size, *t = o->strides[0], *u = o->strides[1], *v = o->strides[2];
    int64_t many = t[3] == 1 && u[3] == 1 && v[3] == 1 ? s[3] : 1;
    for (int64_t i = 0; i < s[0]; i++)
        for (int64_t j = 0; j < s[1]; j++)
            for (int64_t k = 0; k < s[2]; k++)
                for (int64_t l = 0; l < s[3]; l += many) {
                    float *y = (float *)o->result + i * t[0] + j * t[1] + k * t[2] + l * t[3];
                    const float *a = (const float *)o->input[0] + i * u[0] + j * u[1] + k * u[2] + l * u[3];
                    const float *b = (const float *)o->input[1] + i * v[0] + j * v[1] + k * v[2] + l * v[3];
#define EACH(value)                      \
    for (int64_t e = 0; e < many; e++) { \
        float p = a[e], q = b[e];        \
        (void)q;                         \
        y[e] = (value);                  \
    }                                    \
    break
                    switch (o->kind) {
                    case COPY: EACH(p);
                    case ADD: EACH(p + q);
                    case SUB: EACH(p - q);
                    case MUL: EACH(p * q);
                    case DIV: EACH(p / q);
                    case SILU: EACH(p / (1 + exponential(-p)));
                    case GELU_TANH: EACH(p / (1 + exponential(-1.59576912f * (p + 0.044715f * p * p * p))));
                    case RELU: EACH(p < 0 ? 0 : p);
                    }
                }
}

/* Each of size[0] rows of size[1] numbers, by a weight and a bias that may be NULL; number: epsilon. */
static void norm(const operation *o)
{
    const float *weight = o->input[1], *bias = o->input[2];
    int64_t n = o->size[1];
    for (int64_t row = 0; row < o->size[0]; row++) {
        const float *x = (const float *)o->input[0] + row * n;
        float *y = (float *)o->result + row * n, sum = 0, squares = 0, mean = 0;
        if (o->kind == LAYER_NORM) {
            #pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < n; j++)
                sum += x[j];
            mean = sum / n;
        }
        #pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < n; j++)
            squares += (x[j] - mean) * (x[j] - mean);
        float scale = 1 / sqrtf(squares / n + (float)o->number);
        for (int64_t j = 0; j < n; j++)
            y[j] = (x[j] - mean) * scale * (weight ? weight[j] : 1) + (bias ? bias[j] : 0);
    }
}

/* Attention of a query q (d,) to keys and values begin to end; scores (end + LANES,): memory. */
static inline __attribute__((always_inline)) void attend_one(
    const float *q, const float *keys, const float *values, const float *bias, float *y, float *scores, float scale,
    int64_t begin, int64_t end, int64_t d, int64_t key, int64_t value, int64_t step)
{
    float most = -INFINITY, total = 0;
    for (int64_t j = begin; j < end; j += LANES)
        products(q, 1, keys + j * key, end - j, key, d, scores + j, 1);
    for (int64_t j = begin; j < end; j++) {
        scores[j] = bias[j * step] == -INFINITY ? -INFINITY : scores[j] * scale + bias[j * step]; /* the key may be NaN */
        most = scores[j] > most ? scores[j] : most;
    }
    #pragma omp simd reduction(+ : total)
    for (int64_t j = begin; j < end; j++) {
        scores[j] = scores[j] == -INFINITY ? 0 : exponential(scores[j] - most);
        total += scores[j];
    }
    float share = total ? 1 / total : 0;
    int64_t l = 0;
    for (; l + 4 * LANES <= d; l += 4 * LANES) {
        floats sums[4] = {{0}};
        for (int64_t j = begin; j < end; j++)
            if (scores[j] != 0) /* else the value may be NaN */
                UNROLL for (int i = 0; i < 4; i++)
                    sums[i] += scores[j] * *(const floats *)(values + j * value + l + i * LANES);
        UNROLL for (int i = 0; i < 4; i++)
            *(floats *)(y + l + i * LANES) = sums[i] * share;
    }
    for (; l < d; l++) {
        float sum = 0;
        for (int64_t j = begin; j < end; j++)
            sum += scores[j] != 0 ? scores[j] * values[j * value + l] : 0;
        y[l] = sum * share;
    }
}

/* Attention of queries (B, H, T, D) to keys and values (B, H, S, D); bias (B, S): -inf for a key that is not seen;
   strides: of the result, queries, keys and values in B, H, and T or S; the last ones: of bias in B and S. */
static int attend(const operation *o, int threads)
{
    int64_t t = o->size[2], d = o->size[3], s = o->keys, all = o->size[0] * o->size[1] * t;
    const int64_t *sy = o->strides[0], *sq = o->strides[1], *sk = o->strides[2], *sv = o->strides[3];
    float *scores = malloc(all * (s + LANES) * sizeof *scores);
    int64_t(*seen)[2] = malloc(o->size[0] * sizeof *seen); /* the first of a row's keys and the end of them */
    for (int64_t b = 0; scores && seen && b < o->size[0]; b++) {
        const float *bias = (const float *)o->input[3] + b * sy[3];
        int64_t begin = 0, end = s;
        while (end > 0 && bias[(end - 1) * sq[3]] == -INFINITY)
            end--;
        while (begin < end && bias[begin * sq[3]] == -INFINITY)
            begin++;
        seen[b][0] = begin, seen[b][1] = end;
    }
    #pragma omp parallel for num_threads(threads) if (scores && seen)
    for (int64_t each = 0; each < (scores && seen ? all : 0); each++) {
        int64_t i = each % t, h = each / t % o->size[1], b = each / t / o->size[1];
        const float *q = (const float *)o->input[0] + b * sq[0] + h * sq[1] + i * sq[2];
        const float *keys = (const float *)o->input[1] + b * sk[0] + h * sk[1];
        const float *values = (const float *)o->input[2] + b * sv[0] + h * sv[1];
        const float *bias = (const float *)o->input[3] + b * sy[3];
        float *y = (float *)o->result + b * sy[0] + h * sy[1] + i * sy[2], *own = scores + each * (s + LANES);
        attend_one(q, keys, values, bias, y, own, (float)o->number, seen[b][0], seen[b][1], d, sk[2], sv[2], sq[3]);
    }
    int failed = !scores || !seen;
    free(scores);
    free(seen);
    return failed;
}

/* Run operations one after the other. Returns 0, 1 if there is no memory, or 2 if STORE is to write outside. */
int run(const operation *operations, long count, int threads)
{
    int failed = 0;
    for (const operation *o = operations; o < operations + count && !failed; o++)
        switch (o->kind) {
        case RMS_NORM:
        case LAYER_NORM: norm(o); break;
        case LINEAR: linear(o->input[0], o->input[1], o->input[2], o->result, o->size[0], o->size[1], o->size[2], threads); break;
        case INT8_LINEAR:
            failed = int8_linear(o->input[0], o->input[1], o->input[3], o->input[4], o->input[2], o->result, o->size[0],
                                 o->size[1], o->size[2], threads);
            break;
        case ATTEND: failed = attend(o, threads); break;
        case STORE: { /* at a place of the third dimension that is read now */
            operation copy = *o;
            int64_t place = *(const int64_t *)o->input[2];
            if (place < 0 || place >= o->keys)
                return 2;
            copy.kind = COPY;
            copy.result = (float *)o->result + place * o->strides[3][0];
            copy.input[1] = o->input[0];
            elements(&copy);
            break;
        }
        default: elements(o);
        }
    return failed;
}
