// The arithmetic of duplex/sampling.py for one row.
#include <algorithm>

#include "lm.h"

namespace dx {

static uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

float uniform(int64_t seed, int64_t frame, int draw) {
    uint32_t state = mix(mix(uint32_t(seed)) ^ uint32_t(seed >> 32));
    state = mix(mix(state ^ uint32_t(frame)) + uint32_t(frame >> 32));
    uint32_t bits = mix(mix(state ^ uint32_t(draw + 1) * 0x9E3779B9u) + state);
    return float(bits >> 9) * 0x1p-23f;
}

static int argmax(const float* x, int n) {
    int best = 0;
    float most = x[0];
    int i = 0;
    for (; i + W <= n; i += W) {  // look closer only where something is larger
        vf v = load(x + i);
        vi larger = v > most;
        int64_t any = 0;
        for (int j = 0; j < W; j++) any |= larger[j];
        if (any)
            for (int j = 0; j < W; j++)
                if (x[i + j] > most) most = x[i + j], best = i + j;
    }
    for (; i < n; i++)
        if (x[i] > most) most = x[i], best = i;
    return best;
}

// Ascending numbers for descending logits, ties by id: sorting them needs no look at the logits.
static uint64_t rank(float x, int id) {
    uint32_t bits;
    x += 0.f;  // -0 is 0
    memcpy(&bits, &x, 4);
    bits = bits & 0x80000000u ? bits : ~bits & 0x7FFFFFFFu;
    return uint64_t(bits) << 32 | uint32_t(id);
}

struct Candidate {
    uint64_t rank;
    float weight;
    bool operator<(const Candidate& o) const { return rank < o.rank; }
};

int64_t pick(const float* logits, int n, float noise, float temperature, int top_k) {
    if (temperature == 0) return argmax(logits, n);
    const int k = top_k > 0 ? std::min(top_k, n) : n;
    static thread_local std::vector<uint64_t> order;
    static thread_local std::vector<Candidate> those;
    static thread_local std::vector<float> weight;
    order.resize(n), those.resize(k), weight.resize(k);
    for (int i = 0; i < n; i++) order[i] = rank(logits[i], i);
    if (k < n) std::nth_element(order.begin(), order.begin() + k, order.end());
    auto id = [](uint64_t r) { return int(uint32_t(r)); };
    for (int i = 0; i < k; i++) weight[i] = logits[id(order[i])] / temperature;
    const float most = *std::max_element(weight.begin(), weight.end());
    each(weight.data(), weight.data(), k, [most](vf x) { return vexp(x - most); });
    double total = 0;
    for (int i = 0; i < k; i++) those[i] = {order[i], weight[i]}, total += weight[i];
    // The first candidate, from the likeliest down, with which their weights exceed this share of all: found by halving, since
    // the order within a half matters only for the half that holds it.
    const double threshold = noise * total;
    double before = 0;
    auto low = those.begin(), high = those.end();
    while (high - low > 1) {
        auto middle = low + (high - low) / 2;
        std::nth_element(low, middle, high);
        double half = 0;
        for (auto c = low; c != middle; c++) half += c->weight;
        if (before + half > threshold) high = middle;
        else before += half, low = middle;
    }
    return id(low->rank);
}

}  // namespace dx
