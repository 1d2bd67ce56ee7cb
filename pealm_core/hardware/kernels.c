/* Loops for CPUs that torch has no fast function for, and a list of such operations in one call. See kernels.py and
   cpu_recording.py. Numbers are fp32. */
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

/* y = w x + bias for one row x (k,), w (n, k); bias may be NULL. */
static void linear(const float *x, const float *w, const float *bias, float *y, long n, long k, int threads)
{
    #pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        float sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (long j = 0; j < k; j++)
            sum += x[j] * w[i * k + j];
        y[i] = sum + (bias ? bias[i] : 0);
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

/* Attention of a query q (d,) to s keys and values; scores (s,): memory. */
static inline __attribute__((always_inline)) void attend_one(
    const float *q, const float *keys, const float *values, const float *bias, float *y, float *scores, float scale,
    int64_t s, int64_t d, int64_t key, int64_t value, int64_t step)
{
    float most = -INFINITY, total = 0;
    for (int64_t j = 0; j < s; j++) {
        float sum = 0;
        scores[j] = -INFINITY;
        if (bias[j * step] == -INFINITY)
            continue; /* the key may be anything */
        #pragma omp simd reduction(+ : sum)
        for (int64_t l = 0; l < d; l++)
            sum += q[l] * keys[j * key + l];
        scores[j] = sum * scale + bias[j * step];
        most = scores[j] > most ? scores[j] : most;
    }
    memset(y, 0, d * sizeof *y);
    for (int64_t j = 0; j < s; j++) {
        if (scores[j] == -INFINITY)
            continue;
        float weight = exponential(scores[j] - most);
        total += weight;
        for (int64_t l = 0; l < d; l++)
            y[l] += weight * values[j * value + l];
    }
    for (int64_t l = 0; l < d && total != 0; l++)
        y[l] /= total;
}

/* Attention of queries (B, H, T, D) to keys and values (B, H, S, D); bias (B, S): -inf for a key that is not seen;
   strides: of the result, queries, keys and values in B, H, and T or S; the last ones: of bias in B and S. */
static int attend(const operation *o, int threads)
{
    int64_t t = o->size[2], d = o->size[3], s = o->keys, all = o->size[0] * o->size[1] * t;
    const int64_t *sy = o->strides[0], *sq = o->strides[1], *sk = o->strides[2], *sv = o->strides[3];
    float *scores = malloc(all * s * sizeof *scores);
    if (!scores)
        return 1;
    #pragma omp parallel for num_threads(threads)
    for (int64_t each = 0; each < all; each++) {
        int64_t i = each % t, h = each / t % o->size[1], b = each / t / o->size[1];
        const float *q = (const float *)o->input[0] + b * sq[0] + h * sq[1] + i * sq[2];
        const float *keys = (const float *)o->input[1] + b * sk[0] + h * sk[1];
        const float *values = (const float *)o->input[2] + b * sv[0] + h * sv[1];
        const float *bias = (const float *)o->input[3] + b * sy[3];
        float *y = (float *)o->result + b * sy[0] + h * sy[1] + i * sy[2], *own = scores + each * s;
        if (d == 64) /* the usual width, which compilers then keep in registers */
            attend_one(q, keys, values, bias, y, own, (float)o->number, s, 64, sk[2], sv[2], sq[3]);
        else
            attend_one(q, keys, values, bias, y, own, (float)o->number, s, d, sk[2], sv[2], sq[3]);
    }
    free(scores);
    return 0;
}

/* Run operations one after the other. Returns 0, 1 if there is no memory, or 2 if STORE is to write outside. */
int run(const operation *operations, long count, int threads)
{
    int failed = 0;
    for (const operation *o = operations; o < operations + count && !failed; o++)
        switch (o->kind) {
        case RMS_NORM:
        case LAYER_NORM: norm(o); break;
        case LINEAR: linear(o->input[0], o->input[1], o->input[2], o->result, o->size[1], o->size[2], threads); break;
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
