/* Loops that torch has no fast function for. See kernels.py. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
