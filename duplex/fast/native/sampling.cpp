// The arithmetic of duplex/sampling.py for one row.
#include <algorithm>
#include <numeric>

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

int64_t pick(const float* logits, int n, float noise, float temperature, int top_k) {
    if (temperature == 0) return argmax(logits, n);
    int k = top_k > 0 ? std::min(top_k, n) : n;
    static thread_local std::vector<int> ids;
    static thread_local std::vector<float> p;
    ids.resize(n), p.resize(k);
    std::iota(ids.begin(), ids.end(), 0);
    auto before = [logits](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    if (k < n) std::nth_element(ids.begin(), ids.begin() + k, ids.end(), before);
    std::sort(ids.begin(), ids.begin() + k, before);
    float total = 0;
    for (int i = 0; i < k; i++) total += p[i] = std::exp(logits[ids[i]] / temperature - logits[ids[0]] / temperature);
    double reached = 0;
    for (int i = 0; i < k; i++) p[i] = float(reached += p[i] / total);
    const float threshold = noise * p[k - 1];
    int choice = int(std::upper_bound(p.begin(), p.end(), threshold) - p.begin());
    return ids[std::min(choice, k - 1)];
}

}  // namespace dx
