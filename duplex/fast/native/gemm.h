// Products of a weight matrix with a few rows of activations. The weights lie in panels of 32 outputs, input by
// input, so that one pass streams through memory once whatever the number of rows, and every output is summed in
// the same order whatever rows stand beside it: a row's result does not depend on its batch.
#pragma once
#include "vec.h"

namespace dx {

enum Format { F32, F16, BF16, I8, I4 };
constexpr int PANEL = 2 * W;   // outputs of a panel
constexpr int GROUP = 64;      // inputs that share a scale, for integers
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int MOST_ROWS = 8;
#else
constexpr int MOST_ROWS = 3;   // sixteen registers of eight floats hold no more sums
#endif

struct Matrix {
    int format = F32, outputs = 0, inputs = 0, panels = 0, groups = 0;
    Block weights, scales;
    size_t row_bytes() const {  // of one input in a panel
        return format == F32 ? 4 * PANEL : format == I8 ? PANEL : format == I4 ? PANEL / 2 : 2 * PANEL;
    }
    size_t panel_bytes() const { return row_bytes() * inputs; }
    size_t bytes() const { return panel_bytes() * panels + size_t(4) * PANEL * groups * panels; }

    Matrix() = default;
    // w: float32 [outputs, inputs], row after row. F16 and BF16 take values that they hold exactly or round.
    Matrix(int format_, int outputs_, int inputs_, const float* w) : format(format_), outputs(outputs_), inputs(inputs_) {
        panels = (outputs + PANEL - 1) / PANEL;
        groups = format >= I8 ? (inputs + GROUP - 1) / GROUP : 0;
        weights = Block(panel_bytes() * panels);
        if (groups) scales = Block(size_t(4) * PANEL * groups * panels);
        for (int p = 0; p < panels; p++)
            for (int o = 0; o < PANEL && p * PANEL + o < outputs; o++) pack(p, o, w + size_t(p * PANEL + o) * inputs);
    }

private:
    void pack(int p, int o, const float* w) {
        uint8_t* panel = weights.data + panel_bytes() * p;
        for (int g = 0; g < groups; g++) {
            float most = 0, limit = format == I8 ? 127.f : 7.f;
            int end = std::min(inputs, (g + 1) * GROUP);
            for (int i = g * GROUP; i < end; i++) most = std::max(most, std::fabs(w[i]));
            float scale = most > 0 ? most / limit : 1.f;
            reinterpret_cast<float*>(scales.data)[(size_t(p) * groups + g) * PANEL + o] = scale;
            for (int i = g * GROUP; i < end; i++) {
                int q = int(std::nearbyint(w[i] / scale));
                if (format == I8) panel[size_t(i) * PANEL + o] = uint8_t(int8_t(q));
                else panel[size_t(i) * W + o % W] |= uint8_t((q + 8) << (o < W ? 0 : 4));
            }
        }
        if (groups) return;
        for (int i = 0; i < inputs; i++) {
            size_t at = size_t(i) * PANEL + o;
            if (format == F32) reinterpret_cast<float*>(panel)[at] = w[i];
            else if (format == BF16) {
                uint32_t bits;
                memcpy(&bits, w + i, 4);
                reinterpret_cast<uint16_t*>(panel)[at] = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
            } else {
                _Float16 h = _Float16(w[i]);
                memcpy(panel + 2 * at, &h, 2);
            }
        }
    }
};

inline vf half_to_float(const uint8_t* p) {
#ifdef __AVX512F__
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    __m256 a = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    __m256 b = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)));
    vf v;
    memcpy(&v, &a, 32), memcpy(reinterpret_cast<char*>(&v) + 32, &b, 32);
    return v;
#else
    float t[W];
    for (int i = 0; i < W; i++) {
        _Float16 h;
        memcpy(&h, p + 2 * i, 2);
        t[i] = float(h);
    }
    return load(t);
#endif
}

inline vf bytes_to_float(v16i8 v) {
#ifdef __AVX512F__
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)v));
#else
    return __builtin_convertvector(v, vf);
#endif
}

// The 32 weights of one input.
template <int F> inline void weights_at(const uint8_t* p, vf& a, vf& b) {
    if constexpr (F == F32) {
        a = load(reinterpret_cast<const float*>(p));
        b = load(reinterpret_cast<const float*>(p) + W);
    } else if constexpr (F == F16) {
        a = half_to_float(p), b = half_to_float(p + 2 * W);
    } else if constexpr (F == BF16) {
        a = (vf)(__builtin_convertvector(*reinterpret_cast<const v16u16*>(p), vu) << 16);
        b = (vf)(__builtin_convertvector(*reinterpret_cast<const v16u16*>(p + 2 * W), vu) << 16);
    } else if constexpr (F == I8) {
        a = bytes_to_float(*reinterpret_cast<const v16i8*>(p));
        b = bytes_to_float(*reinterpret_cast<const v16i8*>(p + W));
    } else {
        v16u8 both = *reinterpret_cast<const v16u8*>(p);
        a = bytes_to_float((v16i8)(both & 15) - (int8_t)8);
        b = bytes_to_float((v16i8)(both >> 4) - (int8_t)8);
    }
}

// What becomes of a sum: y = sum + bias, or y += scale * (sum + bias).
struct Into {
    float* const* y;
    const float* bias = nullptr;
    const float* scale = nullptr;
    bool add = false;
};

inline void finish(const Into& to, int row, int first, int outputs, vf a, vf b) {
    float t[PANEL], *y = to.y[row] + first;
    int n = std::min(PANEL, outputs - first);
    if (n == PANEL) {
        if (to.bias) a += load(to.bias + first), b += load(to.bias + first + W);
        if (to.scale) a *= load(to.scale + first), b *= load(to.scale + first + W);
        if (to.add) a += load(y), b += load(y + W);
        store(y, a), store(y + W, b);
        return;
    }
    if (n >= W && !to.scale) {  // the first half as a vector
        vf v = to.bias ? a + load(to.bias + first) : a;
        store(y, to.add ? v + load(y) : v);
        if (n == W) return;
    }
    store(t, a), store(t + W, b);
    for (int i = n >= W && !to.scale ? W : 0; i < n; i++) {
        float v = t[i] + (to.bias ? to.bias[first + i] : 0.f);
        if (to.scale) v *= to.scale[first + i];
        y[i] = to.add ? y[i] + v : v;
    }
}

// R rows times P panels, from panel `p` on; of a last panel that is at most half full V = 1 takes the first half alone.
template <int F, int R, int P, int V = 2> inline void tile(const Matrix& m, int p, const float* const* x, int row, const Into& to) {
    vf total[R][P][2] = {};
    const uint8_t* w[P];
    for (int j = 0; j < P; j++) w[j] = m.weights.data + m.panel_bytes() * (p + j);
    constexpr size_t step = F == F32 ? 4 * PANEL : F == I8 ? PANEL : F == I4 ? PANEL / 2 : 2 * PANEL;
    auto run = [&](vf (&acc)[R][P][2], int from, int end) {
        for (int i = from; i < end; i++)
            for (int j = 0; j < P; j++) {
                vf a, b;
                weights_at<F>(w[j] + step * i, a, b);
                if constexpr (R == 1) __builtin_prefetch(w[j] + step * i + 2048);
                else  // the products of many rows look less far ahead than memory is away
                    for (size_t line = 0; line < step; line += 64) __builtin_prefetch(w[j] + step * i + 16384 + line, 0, 2);
                for (int r = 0; r < R; r++) {
                    acc[r][j][0] += a * x[row + r][i];
                    if constexpr (V == 2) acc[r][j][1] += b * x[row + r][i];
                }
            }
    };
    if constexpr (F < I8) run(total, 0, m.inputs);
    else
        for (int g = 0; g < m.groups; g++) {
            vf part[R][P][2] = {};
            run(part, g * GROUP, std::min(m.inputs, (g + 1) * GROUP));
            for (int j = 0; j < P; j++) {
                const float* s = reinterpret_cast<const float*>(m.scales.data) + (size_t(p + j) * m.groups + g) * PANEL;
                for (int r = 0; r < R; r++) total[r][j][0] += part[r][j][0] * load(s), total[r][j][1] += part[r][j][1] * load(s + W);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < P; j++) finish(to, row + r, (p + j) * PANEL, m.outputs, total[r][j][0], total[r][j][1]);
}

template <int F, int R> inline void rows_by_panels(const Matrix& m, int p, int& done, const float* const* x, int row, const Into& to) {
    constexpr int P = R == 1 ? 4 : R <= 4 ? 2 : 1;
    int left = m.panels - p;
    if constexpr (P == 4) {
        if (left >= 4) return tile<F, R, 4>(m, p, x, row, to), void(done = 4);
        if (left == 3) return tile<F, R, 3>(m, p, x, row, to), void(done = 3);
    }
    if constexpr (P >= 2 && R * 4 <= 2 * MOST_ROWS)
        if (left >= 2) return tile<F, R, 2>(m, p, x, row, to), void(done = 2);
    tile<F, R, 1>(m, p, x, row, to), done = 1;
}

// n rows: y[r] = m x[r]. `x` and `to.y` hold one pointer per row.
template <int F> void multiply_as(const Matrix& m, const float* const* x, int n, const Into& to) {
    if (n <= MOST_ROWS && n > 0) {  // one pass; the number of panels at a time suits the number of rows
        for (int p = 0, done = 0; p < m.panels; p += done) switch (n) {
                case 1: rows_by_panels<F, 1>(m, p, done, x, 0, to); break;
                case 2: rows_by_panels<F, 2>(m, p, done, x, 0, to); break;
                case 3: rows_by_panels<F, 3>(m, p, done, x, 0, to); break;
#define DX_CASE(N) case N: if constexpr (N <= MOST_ROWS) rows_by_panels<F, N>(m, p, done, x, 0, to); break;
                DX_CASE(4) DX_CASE(5) DX_CASE(6) DX_CASE(7) DX_CASE(8)
#undef DX_CASE
            }
        return;
    }
    for (int p = 0; p < m.panels; p++) {
        int row = 0;
        if (m.outputs - p * PANEL <= W)
            for (; row + MOST_ROWS <= n; row += MOST_ROWS) tile<F, MOST_ROWS, 1, 1>(m, p, x, row, to);
        for (; row + MOST_ROWS <= n; row += MOST_ROWS) tile<F, MOST_ROWS, 1>(m, p, x, row, to);
        for (; row + 4 <= n && MOST_ROWS > 4; row += 4) tile<F, 4, 1>(m, p, x, row, to);
        for (; row + 2 <= n; row += 2) tile<F, 2, 1>(m, p, x, row, to);
        for (; row < n; row++) tile<F, 1, 1>(m, p, x, row, to);
    }
}

void multiply(const Matrix& m, const float* const* x, int n, const Into& to);  // gemm.cpp

}  // namespace dx
