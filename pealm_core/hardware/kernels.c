/* Loops that torch has no fast function for. See kernels.py. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Multiply x (rows, k) by an int8 matrix w (n, k), both in whole numbers, and by unit (n,); add bias (n,) unless it is
   NULL: y (rows, n). Each row of x is rounded to 127ths of its largest number; offsets (n,): 128 times the sum of each
   row of w. Compilers turn the innermost loop into the processor's dot products of bytes, which take one side without
   a sign: there 128 means 0. Returns 0, or 1 without memory. */
int int8_linear(const float *x, const int8_t *w, const int32_t *offsets, const float *unit, const float *bias,
                float *y, long rows, long n, long k, int threads)
{
    uint8_t *q = malloc(rows * k);
    float *size = malloc(rows * sizeof *size);
    if (q && size) {
        for (long row = 0; row < rows; row++) {
            const float *from = x + row * k;
            uint32_t most = 0x2b8cbccc, bits; /* 1e-12; numbers without a sign have the order of their bits, NaN last */
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
        for (long i = 0; i < n; i++)
            for (long row = 0; row < rows; row++) {
                const uint8_t *a = q + row * k;
                const int8_t *b = w + i * k;
                int32_t sum = 0;
                for (long j = 0; j < k; j++)
                    sum += a[j] * b[j];
                float product = (float)(sum - offsets[i]) * unit[i] * size[row];
                y[row * n + i] = bias ? bias[i] + product : product;
            }
    }
    int failed = !q || !size;
    free(q);
    free(size);
    return failed;
}
