// What the language model and the codec share: attention over stored keys and values, rotation, feed-forward.
#pragma once
#include "gemm.h"

namespace dx {

// Scratch of one thread that only ever grows: a frame allocates nothing.
struct Rows {
    std::vector<float> data;
    std::vector<float*> row;
    int width = 0;
    float* const* shape(int n, int width_) {
        width = width_;
        if (data.size() < size_t(n) * width) data.resize(size_t(n) * width);
        row.resize(n);
        for (int r = 0; r < n; r++) row[r] = data.data() + size_t(r) * width;
        return row.data();
    }
    const float* const* in() const { return row.data(); }
    float* operator[](int r) { return row[r]; }
};

enum Turn { NO_TURN, INTERLEAVED, HALVES };

// Turns pairs of channels of `heads` heads of width E; cos and sin hold E / 2 values.
inline void turn(int kind, float* x, int heads, int E, const float* cos, const float* sin) {
    if (kind == NO_TURN) return;
    const int half = E / 2, step = kind == INTERLEAVED ? 2 : 1, gap = kind == INTERLEAVED ? 1 : half;
    for (int h = 0; h < heads; h++, x += E)
        for (int i = 0; i < half; i++) {
            float a = x[i * step], b = x[i * step + gap];
            x[i * step] = a * cos[i] - b * sin[i];
            x[i * step + gap] = a * sin[i] + b * cos[i];
        }
}

inline void angles(float position, const float* frequency, int half, float* cos, float* sin) {
    for (int i = 0; i < half; i++) cos[i] = std::cos(position * frequency[i]), sin[i] = std::sin(position * frequency[i]);
}

inline void exp_scores(float* score, int n, float* total) {
    float most = score[0];
    for (int i = 1; i < n; i++) most = score[i] > most ? score[i] : most;
    each(score, score, n, [most](vf v) { return vexp(v - most); });
    vf s = {};
    int i = 0;
    for (; i + W <= n; i += W) s += load(score + i);
    float t = sum(s);
    for (; i < n; i++) t += score[i];
    *total = t;
}

// Adds weights [n] times rows [n, E] of v into `out` [E], V vectors at a time; each row is read once from end to end.
template <int V> inline void mix_rows(const float* weight, const float* v, int n, int E, float total, float* out) {
    vf even[V] = {}, odd[V] = {};
    int i = 0;
    for (; i + 2 <= n; i += 2, v += 2 * size_t(E))
        for (int j = 0; j < V; j++) even[j] += weight[i] * load(v + j * W), odd[j] += weight[i + 1] * load(v + E + j * W);
    if (i < n)
        for (int j = 0; j < V; j++) even[j] += weight[i] * load(v + j * W);
    for (int j = 0; j < V; j++) store(out + j * W, (even[j] + odd[j]) / total);
}

// out [E] = softmax(q k) v over the n first entries of keys and values [n, E], but for the entry `hole`. The values are fetched
// from memory while the keys are multiplied: two streams come faster than one after the other.
inline void attend(const float* q, const float* k, const float* v, int n, int E, float* score, float* out, int hole = -1) {
    const float scale = 1.f / std::sqrt(float(E));
    for (int i = 0; i < n; i++) {
        score[i] = scale * dot(q, k + size_t(i) * E, E);
        for (int e = 0; e < E; e += W) __builtin_prefetch(v + size_t(i) * E + e, 0, 2);
    }
    if (hole >= 0 && hole < n) score[hole] = -1e30f;
    float total;
    exp_scores(score, n, &total);
    int e = 0;
    for (; e + 4 * W <= E; e += 4 * W) mix_rows<4>(score, v + e, n, E, total, out + e);
    for (; e + 2 * W <= E; e += 2 * W) mix_rows<2>(score, v + e, n, E, total, out + e);
    for (; e + W <= E; e += W) mix_rows<1>(score, v + e, n, E, total, out + e);
    for (; e < E; e++) {
        float s = 0;
        for (int i = 0; i < n; i++) s += score[i] * v[size_t(i) * E + e];
        out[e] = s / total;
    }
}

// x [n] += scale * down(act(gate) * value), where up gives gate and value; without a gate down(gelu(up)).
struct FeedForward {
    const Matrix *up = nullptr, *down = nullptr;
    const float* scale = nullptr;
    void operator()(int gating, const float* const* in, int n, float* const* x, Rows& wide) const {
        float* const* u = wide.shape(n, up->outputs);
        multiply(*up, in, n, {u});
        const int hidden = down->inputs;
        for (int r = 0; r < n; r++) {
            float* a = u[r];
            if (gating < 0) each(a, a, hidden, [](vf v) { return vgelu(v); });
            else if (gating == SILU) each2(a, a + hidden, a, hidden, [](vf g, vf v) { return vsilu(g) * v; });
            else each2(a, a + hidden, a, hidden, [gating](vf g, vf v) { return activation(gating, g) * v; });
        }
        multiply(*down, u, n, {x, nullptr, scale, true});
    }
};

// Reads the numbers, vectors and matrices that a model is made of in the order in which Python wrote them.
struct Reader {
    const int64_t* ints;
    const float* floats;
    const float* const* vectors;
    const Matrix* const* matrices;
    int i() { return int(*ints++); }
    float f() { return *floats++; }
    const float* v() { return *vectors++; }
    const Matrix* m() { return *matrices++; }
    Norm norm(float eps) {
        Norm n;
        n.weight = v(), n.bias = v(), n.eps = eps;
        return n;
    }
};

}  // namespace dx
