// Floating point: scalar SSE, the C library's functions, and the x87 unit.

#include "program.h"

#include <complex.h>
#include <math.h>

static uint64_t bits_of(double value)
{
    union {
        double value;
        uint64_t bits;
    } both = {value};
    return both.bits;
}

static uint64_t bits_of_long(long double value)
{
    union {
        long double value;
        uint64_t bits;
    } both = {value};
    return both.bits; // the significand
}

static uint64_t bodies(uint64_t count)
{
    enum { BODIES = 5 };
    double x[BODIES][3], v[BODIES][3];
    for (int i = 0; i < BODIES; i++)
        for (int axis = 0; axis < 3; axis++) {
            x[i][axis] = i * 1.5 + axis * 0.25;
            v[i][axis] = (i - 2) * 0.01 * (axis + 1);
        }
    for (uint64_t step = 0; step < count; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double dx = x[i][0] - x[j][0], dy = x[i][1] - x[j][1], dz = x[i][2] - x[j][2];
                double square = dx * dx + dy * dy + dz * dz + 0.01;
                double pull = 0.001 / (square * sqrt(square));
                v[i][0] -= dx * pull, v[i][1] -= dy * pull, v[i][2] -= dz * pull;
                v[j][0] += dx * pull, v[j][1] += dy * pull, v[j][2] += dz * pull;
            }
        for (int i = 0; i < BODIES; i++)
            for (int axis = 0; axis < 3; axis++)
                x[i][axis] += v[i][axis] * 0.001;
    }
    return mix(bits_of(x[0][0]), bits_of(v[4][2]));
}

static uint64_t mandelbrot(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        double re = -2 + (double)(i % 97) * 0.03, im = -1.2 + (double)(i % 89) * 0.027;
        double x = 0, y = 0;
        uint64_t steps = 0;
        for (; steps < 200 && x * x + y * y < 4; steps++) {
            double next = x * x - y * y + re;
            y = 2 * x * y + im;
            x = next;
        }
        sum = mix(sum, steps);
    }
    return sum;
}

static uint64_t libm_trigonometry(uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        double x = (double)i * 0.37;
        sum += sin(x) * cos(x * 0.5) + atan2(x, 3);
    }
    return bits_of(sum);
}

static uint64_t libm_powers(uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        double x = 1 + (double)(i % 1000) * 0.01;
        sum += exp(-x) * log(x) + pow(x, 1.7) + cbrt(x);
    }
    return bits_of(sum);
}

static uint64_t x87_polynomial(uint64_t count)
{
    long double sum = 0, x = 0.1L;
    for (uint64_t i = 0; i < count; i++) {
        sum += ((((x * 0.3L + 1.1L) * x - 0.7L) * x + 0.2L) * x - 1.3L) / (x + 2);
        x = x * 0.999L + 0.0007L;
    }
    return bits_of_long(sum);
}

static uint64_t x87_functions(uint64_t count)
{
    long double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        long double x = (long double)(i % 1000) * 0.011L + 0.5L;
        sum += sinl(x) + logl(x) + sqrtl(x) + expl(-x);
    }
    return bits_of_long(sum);
}

static uint64_t x87_matrix(uint64_t count)
{
    enum { SIZE = 32 };
    static long double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (int i = 0; i < SIZE * SIZE; i++) {
        a[i / SIZE][i % SIZE] = i * 0.01L - 3;
        b[i / SIZE][i % SIZE] = 2 - i * 0.003L;
    }
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                long double sum = c[i][j] * 0.5L;
                for (int k = 0; k < SIZE; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
    return mix(bits_of_long(c[3][5]), bits_of_long(c[31][30]));
}

static uint64_t double_matrix(uint64_t count)
{
    enum { SIZE = 64 };
    static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (int i = 0; i < SIZE * SIZE; i++) {
        a[i / SIZE][i % SIZE] = i * 0.01 - 3;
        b[i / SIZE][i % SIZE] = 2 - i * 0.003;
    }
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                double sum = c[i][j] * 0.5;
                for (int k = 0; k < SIZE; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
    return mix(bits_of(c[3][5]), bits_of(c[63][62]));
}

static void fourier_step(double complex *x, int len)
{
    if (len == 1)
        return;
    double complex even[len / 2], odd[len / 2];
    for (int i = 0; i < len / 2; i++) {
        even[i] = x[2 * i];
        odd[i] = x[2 * i + 1];
    }
    fourier_step(even, len / 2);
    fourier_step(odd, len / 2);
    double angle = -2 * 3.14159265358979323846 / len;
    double re = 1, im = 0, step_re = cos(angle), step_im = sin(angle);
    for (int i = 0; i < len / 2; i++) {
        double t_re = creal(odd[i]) * re - cimag(odd[i]) * im;
        double t_im = creal(odd[i]) * im + cimag(odd[i]) * re;
        double complex t = t_re + t_im * I;
        x[i] = even[i] + t;
        x[i + len / 2] = even[i] - t;
        double next = re * step_re - im * step_im;
        im = re * step_im + im * step_re;
        re = next;
    }
}

static uint64_t fourier(uint64_t count)
{
    enum { LEN = 1024 };
    static double complex x[LEN];
    for (int i = 0; i < LEN; i++)
        x[i] = (i % 37) * 0.1 - 1;
    for (uint64_t round = 0; round < count; round++) {
        fourier_step(x, LEN);
        for (int i = 0; i < LEN; i++)
            x[i] *= 1.0 / 32;
    }
    return mix(bits_of(creal(x[1])), bits_of(cimag(x[1000])));
}

// Between floating point and integers, back and forth, with comparisons.
static uint64_t conversions(uint64_t count)
{
    uint64_t sum = 0;
    double x = 0.5;
    float y = 1.5f;
    for (uint64_t i = 0; i < count; i++) {
        int64_t whole = (int64_t)(x * 1000);
        x += (double)(whole & 7) * 0.125 - (x > 100 ? 99.5 : 0);
        y = (float)x * 0.75f + (float)(int32_t)i;
        sum += (uint64_t)whole + (uint64_t)(int64_t)y;
    }
    return sum;
}

const struct program float_programs[] = {
    {"bodies", bodies, 4000000, 10, NULL},
    {"mandelbrot", mandelbrot, 1500000, 10, NULL},
    {"libm-trigonometry", libm_trigonometry, 8000000, 10, NULL},
    {"libm-powers", libm_powers, 6000000, 10, NULL},
    {"x87-polynomial", x87_polynomial, 30000000, 10, NULL},
    {"x87-functions", x87_functions, 1000000, 10, NULL},
    {"x87-matrix", x87_matrix, 6000, 10, NULL},
    {"double-matrix", double_matrix, 3000, 10, NULL},
    {"fourier", fourier, 6000, 10, NULL},
    {"conversions", conversions, 25000000, 10, NULL},
    {NULL, NULL, 0, 0, NULL},
};
