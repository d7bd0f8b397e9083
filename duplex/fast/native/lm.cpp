// One frame of the language model for B rows: delays, temporal transformer, text, depth transformer, sampling.
#include "lm.h"

#include <algorithm>

namespace dx {

constexpr int64_t UNGENERATED = -2;

void Table::add(int64_t id, float* x, int n) const {
    if (id < 0) return;  // "nothing is known": embedded to zero
    const float* e = first + size_t(id % entries) * n;
    each2(x, e, x, n, [](vf a, vf b) { return a + b; });
    int64_t other = second ? id / entries - 1 : -1;
    if (other >= 0) each2(x, second + size_t(other) * n, x, n, [](vf a, vf b) { return a + b; });
}

LM::LM(Reader r) {
    D = r.i(), H = r.i(), G = r.i(), L = r.i(), C = r.i(), n_system = r.i(), n_user = r.i(), dep_q = r.i();
    V = r.i(), pad = r.i(), epad = r.i(), text_initial = r.i(), audio_initial = r.i(), rotary = r.i(), sinus = r.i();
    gating = r.i(), Dd = r.i(), Hd = r.i(), Gd = r.i(), Ld = r.i(), depth_rotary = r.i(), depth_gating = r.i();
    extra_heads = r.i(), extra_dim = r.i();
    K = 1 + n_system + n_user;
    for (int k = 0; k < K; k++) delays.push_back(r.i());
    max_delay = int(*std::max_element(delays.begin(), delays.end())), R = max_delay + 2;
    float eps = r.f(), depth_eps = r.f();
    positional_scale = r.f();
    frequency = r.v(), sin_divisor = r.v(), depth_cos = r.v(), depth_sin = r.v(), depth_sinusoids = r.v();
    auto table = [&r] { return Table{r.v(), r.v(), r.i()}; };
    for (int k = 0; k < K; k++) embed.push_back(table());
    for (int l = 0; l < L; l++) {
        Layer y;
        y.norm1 = r.norm(eps), y.norm2 = r.norm(eps);
        y.in = r.m(), y.out = r.m(), y.feed.up = r.m(), y.feed.down = r.m(), y.scale = r.v(), y.feed.scale = r.v();
        layers.push_back(y);
    }
    out_norm = r.norm(eps), text_head = r.m(), text_bias = r.v();
    for (int h = 0; h < extra_heads; h++) extra.push_back(r.m());
    if (!dep_q) return;
    depth_in = r.m();
    for (int q = 0; q < dep_q; q++) depth_embed.push_back(table());
    for (int l = 0; l < Ld; l++) {
        DepthLayer y;
        y.norm1 = r.norm(eps), y.norm2 = r.norm(eps), y.scale = r.v();
        const float* scale = r.v();
        for (int q = 0; q < dep_q; q++) {
            y.in.push_back(r.m()), y.out.push_back(r.m());
            const Matrix *up = r.m(), *down = r.m();
            y.feed.push_back({up, down, scale});
        }
        depth_layers.push_back(y);
    }
    for (int q = 0; q < dep_q; q++)
        depth_norms.push_back(r.norm(depth_eps)), heads.push_back(r.m()), head_bias.push_back(r.v());
}

struct Scratch {
    Rows x, normed, qkv, mixed, wide, hidden, depth_in, logits;
    std::vector<float> cos, sin, score, store;
    std::vector<int64_t> forced, codes;
    std::vector<int> rows, depth_rows;
};
static thread_local Scratch s;

static int64_t wrap(int64_t a, int64_t b) { return (a % b + b) % b; }

void LM::temporal(const Frame& f, int B, const std::vector<int>& rows, Meter& ended) const {
    const int n = int(rows.size()), E = D / H, half = E / 2;
    float* const* x = s.x.shape(n, D);
    s.cos.resize(size_t(n) * half + 1), s.sin.resize(size_t(n) * half + 1), s.score.resize(C);
    for (int r = 0; r < n; r++) {
        const int64_t b = rows[r], t = f.frames[b];
        std::fill_n(x[r], D, 0.f);
        for (int j = 0; j < K; j++) {
            int k = j + 1 < K ? j + 1 : 0;  // the audio rows, then the text
            int64_t id = t - 1 < delays[k] ? (k ? audio_initial : text_initial) : f.ring[(b * K + k) * R + wrap(t - 1, R)];
            embed[k].add(id, x[r], D);
        }
        if (sinus)
            for (int i = 0; i < D / 2; i++) {
                float phase = float(t) / sin_divisor[i];
                x[r][i] += positional_scale * std::cos(phase), x[r][D / 2 + i] += positional_scale * std::sin(phase);
            }
        if (rotary) angles(float(t), frequency, half, &s.cos[size_t(r) * half], &s.sin[size_t(r) * half]);
    }
    float *const *normed = s.normed.shape(n, D), *const *qkv = s.qkv.shape(n, (H + 2 * G) * E), *const *mixed = s.mixed.shape(n, D);
    for (int l = 0; l < L; l++) {
        const Layer& y = layers[l];
        for (int r = 0; r < n; r++) y.norm1(x[r], normed[r], D);
        ended(ELEMENTWISE);
        multiply(*y.in, normed, n, {qkv});
        ended(PRODUCTS);
        for (int r = 0; r < n; r++) {
            const int64_t t = f.frames[rows[r]], slot = t % C;
            const int filled = int(std::min<int64_t>(t + 1, C));
            float *q = qkv[r], *kv = f.kv + (size_t(l) * B + rows[r]) * 2 * G * C * E;
            turn(rotary, q, H + G, E, &s.cos[size_t(r) * half], &s.sin[size_t(r) * half]);
            for (int g = 0; g < 2 * G; g++) memcpy(kv + (size_t(g) * C + slot) * E, q + size_t(H + g) * E, 4 * E);
            for (int h = 0; h < H; h++) {
                const int g = h / (H / G);
                attend(q + h * E, kv + size_t(g) * C * E, kv + size_t(G + g) * C * E, filled, E, s.score.data(), mixed[r] + h * E);
            }
        }
        ended(ATTENTION);
        multiply(*y.out, mixed, n, {x, nullptr, y.scale, true});
        ended(PRODUCTS);
        for (int r = 0; r < n; r++) y.norm2(x[r], normed[r], D);
        ended(ELEMENTWISE);
        y.feed(gating, normed, n, x, s.wide);
        ended(PRODUCTS);
    }
    float* const* hidden = s.hidden.shape(n, D);
    for (int r = 0; r < n; r++) out_norm(x[r], hidden[r], D);
}

void LM::depth(const Frame& f, const std::vector<int>& which, const int64_t* forced, int generated, int64_t* codes,
               Meter& ended) const {
    // `which`: numbers among the active rows; the temporal output of each lies in s.hidden.
    const int n = int(which.size()), E = Dd / Hd, half = E / 2, heads_kv = 2 * Gd;
    float *const *x = s.x.shape(n, Dd), *const *normed = s.normed.shape(n, Dd), *const *qkv = s.qkv.shape(n, (Hd + heads_kv) * E);
    float *const *mixed = s.mixed.shape(n, Dd), *const *in = s.depth_in.shape(n, depth_in->outputs);
    float* const* logits = s.logits.shape(n, heads[0]->outputs);
    std::vector<const float*> source(n);
    for (int r = 0; r < n; r++) source[r] = s.hidden[which[r]];
    multiply(*depth_in, source.data(), n, {in});
    ended(PRODUCTS);
    s.store.resize(size_t(Ld) * n * heads_kv * dep_q * E), s.score.resize(std::max<size_t>(s.score.size(), dep_q));
    const Settings& o = f.settings;
    for (int q = 0; q < generated; q++) {
        for (int r = 0; r < n; r++) {
            const int64_t b = s.rows[which[r]], previous = q ? codes[b * generated + q - 1] : f.text_now[b];
            memcpy(x[r], in[r] + size_t(q) * Dd, 4 * Dd);
            depth_embed[q].add(previous, x[r], Dd);
            if (depth_sinusoids)
                each2(x[r], depth_sinusoids + size_t(q) * Dd, x[r], Dd, [](vf a, vf c) { return a + c; });
        }
        for (int l = 0; l < Ld; l++) {
            const DepthLayer& y = depth_layers[l];
            for (int r = 0; r < n; r++) y.norm1(x[r], normed[r], Dd);
            ended(ELEMENTWISE);
            multiply(*y.in[q], normed, n, {qkv});
            ended(PRODUCTS);
            for (int r = 0; r < n; r++) {
                float *p = qkv[r], *kv = s.store.data() + (size_t(l) * n + r) * heads_kv * dep_q * E;
                if (depth_rotary) turn(depth_rotary, p, Hd + Gd, E, depth_cos + q * half, depth_sin + q * half);
                for (int g = 0; g < heads_kv; g++) memcpy(kv + (size_t(g) * dep_q + q) * E, p + size_t(Hd + g) * E, 4 * E);
                for (int h = 0; h < Hd; h++) {
                    const int g = h / (Hd / Gd);
                    attend(p + h * E, kv + size_t(g) * dep_q * E, kv + size_t(Gd + g) * dep_q * E, q + 1, E, s.score.data(),
                           mixed[r] + h * E);
                }
            }
            ended(ATTENTION);
            multiply(*y.out[q], mixed, n, {x, nullptr, y.scale, true});
            ended(PRODUCTS);
            for (int r = 0; r < n; r++) y.norm2(x[r], normed[r], Dd);
            ended(ELEMENTWISE);
            y.feed[q](depth_gating, normed, n, x, s.wide);
            ended(PRODUCTS);
        }
        const float* const* out = x;
        if (depth_norms[q].weight) {
            for (int r = 0; r < n; r++) depth_norms[q](x[r], normed[r], Dd);
            out = normed;
        }
        ended(ELEMENTWISE);
        multiply(*heads[q], out, n, {logits, head_bias[q]});
        ended(PRODUCTS);
        if (f.mark) f.mark(SAMPLING);
        for (int r = 0; r < n; r++) {
            const int64_t b = s.rows[which[r]];
            int64_t known = q < n_system ? forced[b * n_system + q] : -1;
            codes[b * generated + q] = known >= 0 ? known
                : pick(logits[r], heads[q]->outputs, uniform(f.seeds[b], f.frames[b], 1 + q), f.heat[2 * b + 1], o.audio_top_k);
        }
        ended(CHOICE);
        if (f.mark) f.mark(DEPTH);
    }
}

void LM::step(const Frame& f, int B) const {
    const Settings& o = f.settings;
    const int generated = f.user ? std::min(dep_q, n_system) : dep_q;
    Meter ended(f.spent);
    auto slot = [&](int64_t b, int k, int64_t step) -> int64_t& { return f.ring[(b * K + k) * R + wrap(step, R)]; };
    s.rows.clear();
    s.forced.assign(size_t(B) * n_system, -1), s.codes.assign(size_t(B) * generated, UNGENERATED);
    for (int64_t b = 0; b < B; b++) {
        if (f.active && !f.active[b]) continue;
        s.rows.push_back(int(b));
        const int64_t t = f.frames[b];
        for (int u = 0; f.user && u < n_user; u++) {
            int k = 1 + n_system + u;
            slot(b, k, t - 1 + delays[k]) = f.user[b * n_user + u];
        }
        for (int q = 0; q < n_system; q++) {
            int64_t code = f.forced_system ? f.forced_system[b * n_system + q] : -1;
            slot(b, 1 + q, t + delays[1 + q]) = code >= 0 ? code : UNGENERATED;
            s.forced[b * n_system + q] = slot(b, 1 + q, t);
        }
    }
    const int n = int(s.rows.size());
    std::fill_n(f.text_logits, size_t(B) * V, 0.f);
    if (f.extra) std::fill_n(f.extra, size_t(extra_heads) * B * extra_dim, 0.f);
    for (int b = 0; b < B; b++) f.text_now[b] = 0, f.ready[b] = 0;
    std::fill_n(f.tokens, size_t(B) * (1 + generated), UNGENERATED);
    if (!n) return;
    if (f.mark) f.mark(TEMPORAL);
    temporal(f, B, s.rows, ended);
    std::vector<float*> to(n);
    for (int r = 0; r < n; r++) to[r] = f.text_logits + size_t(s.rows[r]) * V;
    ended(ELEMENTWISE);
    multiply(*text_head, s.hidden.in(), n, {to.data(), text_bias});
    for (int h = 0; h < extra_heads; h++) {
        for (int r = 0; r < n; r++) to[r] = f.extra + (size_t(h) * B + s.rows[r]) * extra_dim;
        multiply(*extra[h], s.hidden.in(), n, {to.data()});
        for (int r = 0; r < n; r++) {
            float total;
            exp_scores(to[r], extra_dim, &total);
            for (int i = 0; i < extra_dim; i++) to[r][i] /= total;
        }
    }
    ended(PRODUCTS);
    if (f.mark) f.mark(SAMPLING);
    float* adjusted = s.logits.shape(1, V)[0];
    for (int b : s.rows) {
        memcpy(adjusted, f.text_logits + size_t(b) * V, 4 * size_t(V));
        if (f.bias) each2(adjusted, f.bias + size_t(b) * V, adjusted, V, [](vf a, vf c) { return a + c; });
        float* onset = f.onset + 2 * size_t(b);
        if (o.patience > 0) {
            if (onset[1] >= QUIET_FRAMES) adjusted[pad] += o.patience * std::max(0.f, 1 - onset[0] / WISH_ENOUGH);
            const float *row = f.text_logits + size_t(b) * V, top = *std::max_element(row, row + V);
            float total = 0;
            for (int v = 0; v < V; v++) total += std::exp(row[v] - top);
            onset[0] = WISH_KEPT * onset[0] + 1 - std::exp(row[pad] - top) / total;
        }
        int64_t *recent = f.recent + size_t(b) * o.window, token = f.forced_text ? f.forced_text[b] : -1;
        if (token < 0) {
            if (o.log_penalty != 0)
                for (int w = 0; w < o.window; w++)
                    if (recent[w] >= 0 && std::find(recent, recent + w, recent[w]) == recent + w) adjusted[recent[w]] -= o.log_penalty;
            token = pick(adjusted, V, uniform(f.seeds[b], f.frames[b], 0), f.heat[2 * size_t(b)], o.text_top_k);
        }
        f.text_now[b] = token;
        if (o.patience > 0) onset[1] = token == pad ? onset[1] + 1 : 0;
        if (o.window && token != pad && token != epad) {
            std::copy(recent + 1, recent + o.window, recent);
            recent[o.window - 1] = token;
        }
    }
    s.depth_rows.clear();
    for (int r = 0; r < n && generated; r++) {
        const int64_t b = s.rows[r], *known = s.forced.data() + b * n_system;
        // Frames of a prompt are known in full and need no depth pass.
        bool all_known = generated == n_system && std::all_of(known, known + n_system, [](int64_t c) { return c >= 0; });
        if (all_known) std::copy(known, known + n_system, s.codes.begin() + b * generated);
        else s.depth_rows.push_back(r);
    }
    ended(CHOICE);
    if (f.mark) f.mark(DEPTH);
    if (!s.depth_rows.empty()) depth(f, s.depth_rows, s.forced.data(), generated, s.codes.data(), ended);
    if (f.mark) f.mark(OTHER);
    for (int64_t b : s.rows) {
        const int64_t t = f.frames[b];
        for (int k = 0; k <= generated; k++) slot(b, k, t) = k ? s.codes[b * generated + k - 1] : f.text_now[b];
        if ((f.ready[b] = t >= max_delay))
            for (int k = 0; k <= generated; k++) f.tokens[b * (1 + generated) + k] = slot(b, k, t - max_delay + delays[k]);
        f.frames[b] = t + 1;
    }
    ended(ELEMENTWISE);
}

}  // namespace dx

extern "C" {

void* dx_lm(const int64_t* ints, const float* floats, const float* const* vectors, const dx::Matrix* const* matrices) {
    return new dx::LM({ints, floats, vectors, matrices});
}

void dx_lm_free(void* lm) { delete static_cast<dx::LM*>(lm); }

void dx_lm_step(const void* lm, const dx::Frame* frame, int rows) { static_cast<const dx::LM*>(lm)->step(*frame, rows); }
}
