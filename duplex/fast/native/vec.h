// Sixteen floats at a time, in the compiler's own vector types: one source for AVX-512, AVX2 and NEON.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dx {

constexpr int W = 16;
typedef float vf __attribute__((vector_size(64)));
typedef float vfu __attribute__((vector_size(64), aligned(4)));  // the same at any address
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint8_t v16u8 __attribute__((vector_size(16), aligned(1)));
typedef int8_t v16i8 __attribute__((vector_size(16), aligned(1)));
typedef uint16_t v16u16 __attribute__((vector_size(32), aligned(2)));

inline vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
inline vf all(float x) { return vf{} + x; }
inline vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }

inline float sum(vf v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float t[W], s = 0;
    memcpy(t, &v, sizeof t);
    for (int step = W / 2; step; step /= 2)
        for (int i = 0; i < step; i++) t[i] += t[i + step];
    return s + t[0];
#endif
}

inline float dot(const float* a, const float* b, int n) {
    vf acc = {}, acc2 = {};
    int i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        acc += load(a + i) * load(b + i);
        acc2 += load(a + i + W) * load(b + i + W);
    }
    for (; i + W <= n; i += W) acc += load(a + i) * load(b + i);
    float s = n >= W ? sum(acc + acc2) : 0.f;
    for (; i < n; i++) s += a[i] * b[i];
    return s;
}

// exp to about 1 ulp, by halving the exponent range: x = n ln 2 + r and a polynomial in r.
inline vf vexp(vf x) {
    x = select(x < -87.f, all(-87.f), x);
    x = select(x > 88.f, all(88.f), x);
    const vf magic = all(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
    vf n = (x * 1.44269504088896341f + magic) - magic;
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    vi e = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)e;
}

// exp(x) - 1 for x <= 0, without cancellation near zero.
inline vf vexpm1(vf x) {
    vf p = all(1.f / 40320);
    p = p * x + 1.f / 5040;
    p = p * x + 1.f / 720;
    p = p * x + 1.f / 120;
    p = p * x + 1.f / 24;
    p = p * x + 1.f / 6;
    p = p * x + .5f;
    p = p * (x * x) + x;
    return select(x > -.4f, p, vexp(x) - 1.f);
}

// erf with an absolute error below 2e-7 (Abramowitz and Stegun, 7.1.26).
inline vf verf(vf x) {
    vf a = select(x < 0.f, -x, x);
    vf t = 1.f / (1.f + 0.3275911f * a);
    vf p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf y = 1.f - p * t * vexp(-a * a);
    return select(x < 0.f, -y, y);
}

inline vf vsilu(vf x) { return x / (1.f + vexp(-x)); }
inline vf vgelu(vf x) { return .5f * x * (1.f + verf(x * .70710678118654752f)); }
inline vf velu(vf x) { return select(x > 0.f, x, vexpm1(select(x > 0.f, all(0.f), x))); }

// Applies f to n floats; the last few go through a padded vector.
template <class F> inline void each(const float* x, float* y, int64_t n, F f) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, f(load(x + i)));
    if (i < n) {
        float t[W] = {};
        memcpy(t, x + i, (n - i) * 4);
        store(t, f(load(t)));
        memcpy(y + i, t, (n - i) * 4);
    }
}

// The same for two inputs.
template <class F> inline void each2(const float* a, const float* b, float* y, int64_t n, F f) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, f(load(a + i), load(b + i)));
    if (i < n) {
        float t[W] = {}, u[W] = {};
        memcpy(t, a + i, (n - i) * 4);
        memcpy(u, b + i, (n - i) * 4);
        store(t, f(load(t), load(u)));
        memcpy(y + i, t, (n - i) * 4);
    }
}

enum Activation { SIGMOID, TANH, RELU, LEAKY_RELU, ELU, GELU, SILU, MISH, SOFTSIGN, IDENTITY };

inline vf activation(int kind, vf x) {
    switch (kind) {
        case SILU: return vsilu(x);
        case GELU: return vgelu(x);
        case SIGMOID: return 1.f / (1.f + vexp(-x));
        case RELU: return select(x > 0.f, x, all(0.f));
        case LEAKY_RELU: return select(x > 0.f, x, .01f * x);
        case ELU: return velu(x);
        case SOFTSIGN: return x / (1.f + select(x < 0.f, -x, x));
        case IDENTITY: return x;
    }
    float t[W];
    memcpy(t, &x, sizeof t);
    for (float& v : t)
        v = kind == TANH ? std::tanh(v) : v * std::tanh(std::log1p(std::exp(v)));  // MISH
    return load(t);
}

// y = norm(x) over n channels. Without bias it is the root-mean-square norm, with bias the layer norm.
struct Norm {
    const float *weight = nullptr, *bias = nullptr;
    float eps = 1e-5f;
    void operator()(const float* x, float* y, int n) const {
        float mean = 0, square = 0;
        if (bias) {
            vf s = {};
            int i = 0;
            for (; i + W <= n; i += W) s += load(x + i);
            mean = sum(s);
            for (; i < n; i++) mean += x[i];
            mean /= n;
        }
        vf s = {};
        int i = 0;
        for (; i + W <= n; i += W) {
            vf d = load(x + i) - mean;
            s += d * d;
        }
        square = sum(s);
        for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
        float scale = 1.f / std::sqrt(square / n + eps);
        for (i = 0; i + W <= n; i += W) {
            vf v = (load(x + i) - mean) * scale * load(weight + i);
            store(y + i, bias ? v + load(bias + i) : v);
        }
        for (; i < n; i++) y[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0.f);
    }
};

// Memory at a cache line's edge, in large pages where the system grants them.
struct Block {
    uint8_t* data = nullptr;
    size_t bytes = 0;
    Block() = default;
    explicit Block(size_t n) {
        const size_t page = n >= (1u << 21) ? 1u << 21 : 64;
        bytes = (n + 256 + page - 1) / page * page;  // 256: readers may run past the end by a few vectors
        data = static_cast<uint8_t*>(std::aligned_alloc(page, bytes));
        if (!data) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (page > 64) madvise(data, bytes, MADV_HUGEPAGE);
#endif
        memset(data, 0, bytes);
    }
    Block(Block&& o) noexcept { std::swap(data, o.data), std::swap(bytes, o.bytes); }
    Block& operator=(Block&& o) noexcept { return std::swap(data, o.data), std::swap(bytes, o.bytes), *this; }
    ~Block() { std::free(data); }
};

}  // namespace dx
