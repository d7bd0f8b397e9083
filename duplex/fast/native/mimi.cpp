// The codec, 80 ms at a time for B rows. Sound lies time by time with its channels side by side, so that a convolution is one
// matrix product over overlapping windows, and a transposed one with kernel twice its stride a product over two neighbours whose
// outputs are already in order. Each row's state is one run of floats: tails of the convolutions' inputs, keys and values.
#include <algorithm>

#include "layers.h"

namespace dx {

enum OpKind { CONV, TRANSPOSED, RESIDUAL };
constexpr int SAMPLES = 1920;
constexpr int PAIR = 2;  // transformer steps in a frame: the convolutions' product is half a frame

struct Conv {
    const Matrix* weight;
    const float* bias;
    int inputs, outputs, kernel, stride, dilation, up;  // up: time steps in one output row, for a transposed convolution
    bool elu;
    int64_t at;  // of its tail in the state
    int tail() const { return (kernel - 1) * dilation + 1 - stride; }
};

struct Op {
    OpKind kind;
    Conv first, second;
};

struct CodecLayer {
    Norm norm1, norm2;
    const Matrix *in, *out;
    const float* scale;
    FeedForward feed;
};

struct Half {  // encoder or decoder
    std::vector<Op> ops;
    std::vector<CodecLayer> layers;
    int64_t resample_at, keys_at, size = 0;
    int64_t take(int64_t n) { return size += n, size - n; }
};

struct Taking {  // the rows that take part in a call: number, state and frame counter of each
    std::vector<int64_t> row;
    std::vector<float*> state;
    std::vector<int64_t*> frames;
    Taking(int B, float* states, int64_t size, int64_t* counters, const uint8_t* active) {
        for (int64_t b = 0; b < B; b++)
            if (!active || active[b]) row.push_back(b), state.push_back(states + size * b), frames.push_back(counters + b);
    }
    int count() const { return int(row.size()); }
};

struct Mimi {
    int D, H, C, E, books, book_dim, entries;
    const float *frequency, *upsample;
    Half encoder, decoder;
    Conv downsample;
    std::vector<const Matrix*> book_in, book;           // two projections; one matrix for each book
    std::vector<const float*> book_bias, vectors, sound;  // minus half the square of each entry; entries; entries projected
    explicit Mimi(Reader r);
    void encode(const Taking& rows, const float* pcm, int64_t* codes) const;
    void decode(const Taking& rows, const int64_t* codes, float* pcm) const;

private:
    void transformer(const Half& half, const Taking& rows, float* const* x) const;
    void quantise(const Taking& rows, const float* const* z, int64_t* codes) const;
};

static Conv read_conv(Reader& r, Half& half) {
    Conv c;
    c.inputs = r.i(), c.outputs = r.i(), c.kernel = r.i(), c.stride = r.i(), c.dilation = r.i(), c.up = r.i(), c.elu = r.i();
    c.weight = r.m(), c.bias = r.v();
    c.at = half.take(int64_t(c.tail()) * c.inputs);
    return c;
}

Mimi::Mimi(Reader r) {
    D = r.i(), H = r.i(), C = r.i(), books = r.i(), book_dim = r.i(), entries = r.i(), E = D / H;
    const float eps = r.f();
    frequency = r.v(), upsample = r.v();
    for (Half* half : {&encoder, &decoder}) {
        const int layers = r.i(), ops = r.i();
        for (int o = 0; o < ops; o++) {
            Op op;
            op.kind = OpKind(r.i()), op.first = read_conv(r, *half);
            if (op.kind == RESIDUAL) op.second = read_conv(r, *half);
            half->ops.push_back(op);
        }
        for (int l = 0; l < layers; l++) {
            CodecLayer y;
            y.norm1 = r.norm(eps), y.norm2 = r.norm(eps);
            y.in = r.m(), y.out = r.m(), y.feed.up = r.m(), y.feed.down = r.m(), y.scale = r.v(), y.feed.scale = r.v();
            half->layers.push_back(y);
        }
        half->keys_at = half->take(int64_t(layers) * 2 * H * C * E);
    }
    downsample = read_conv(r, encoder);
    decoder.resample_at = decoder.take(D);
    book_in = {r.m(), r.m()};
    for (int k = 0; k < books; k++) book.push_back(r.m()), book_bias.push_back(r.v()), vectors.push_back(r.v()), sound.push_back(r.v());
}

struct CodecScratch {
    std::vector<float> a, b, window, gathered, score, angle;
    std::vector<const float*> in;
    std::vector<float*> out;
    Rows x, normed, qkv, mixed, wide, z, projected, scores;
};
static thread_local CodecScratch s;

// One convolution of T steps of each row; x and y hold the rows one after another. Gives the steps of a row of y.
static int convolve(const Conv& c, const Taking& rows, int T, const float* x, float* y, bool add) {
    const int B = rows.count(), tail = c.tail(), steps = T / c.stride, width = c.inputs, wide = c.kernel * width;
    const size_t room = size_t(tail + T) * width;
    s.window.resize(std::max(s.window.size(), room * B));
    s.in.resize(size_t(B) * steps), s.out.resize(size_t(B) * steps);
    if (c.dilation > 1) s.gathered.resize(std::max(s.gathered.size(), size_t(B) * steps * wide));
    for (int b = 0; b < B; b++) {
        float *w = s.window.data() + room * b, *kept = rows.state[b] + c.at;
        const float* from = x + size_t(b) * T * width;
        memcpy(w, kept, 4 * size_t(tail) * width);
        if (c.elu) each(from, w + size_t(tail) * width, int64_t(T) * width, velu);
        else memcpy(w + size_t(tail) * width, from, 4 * size_t(T) * width);
        memcpy(kept, w + size_t(T) * width, 4 * size_t(tail) * width);
        for (int t = 0; t < steps; t++) {
            const float* window = w + size_t(t) * c.stride * width;
            if (c.dilation > 1) {
                float* g = s.gathered.data() + (size_t(b) * steps + t) * wide;
                for (int k = 0; k < c.kernel; k++) memcpy(g + k * width, window + size_t(k) * c.dilation * width, 4 * size_t(width));
                window = g;
            }
            s.in[size_t(b) * steps + t] = window;
            s.out[size_t(b) * steps + t] = y + (size_t(b) * steps + t) * c.outputs * c.up;
        }
    }
    multiply(*c.weight, s.in.data(), B * steps, {s.out.data(), c.bias, nullptr, add});
    return steps * c.up;
}

// Runs the convolutions over s.a, [B, T, channels]; the result lies there again. Gives its number of steps.
static int run(const Half& half, const Taking& rows, int T) {
    const int B = rows.count();
    for (const Op& op : half.ops) {
        if (op.kind == RESIDUAL) {
            s.b.resize(std::max(s.b.size(), size_t(B) * T * op.first.outputs));
            convolve(op.first, rows, T, s.a.data(), s.b.data(), false);
            convolve(op.second, rows, T, s.b.data(), s.a.data(), true);
            continue;
        }
        const Conv& c = op.first;
        s.b.resize(std::max(s.b.size(), size_t(B) * (T / c.stride) * c.outputs * c.up));
        T = convolve(c, rows, T, s.a.data(), s.b.data(), false);
        std::swap(s.a, s.b);
    }
    return T;
}

void Mimi::transformer(const Half& half, const Taking& rows, float* const* x) const {
    const int n = rows.count() * PAIR, turns = E / 2;
    float *const *normed = s.normed.shape(n, D), *const *qkv = s.qkv.shape(n, 3 * D), *const *mixed = s.mixed.shape(n, D);
    s.angle.resize(size_t(n) * E), s.score.resize(C);
    auto position = [&rows](int r) { return *rows.frames[r / PAIR] * PAIR + r % PAIR; };
    for (int r = 0; r < n; r++) angles(float(position(r)), frequency, turns, &s.angle[r * E], &s.angle[r * E + turns]);
    for (size_t l = 0; l < half.layers.size(); l++) {
        const CodecLayer& y = half.layers[l];
        for (int r = 0; r < n; r++) y.norm1(x[r], normed[r], D);
        multiply(*y.in, normed, n, {qkv});
        for (int r = 0; r < n; r++) {
            float* kv = rows.state[r / PAIR] + half.keys_at + int64_t(l) * 2 * H * C * E;
            turn(INTERLEAVED, qkv[r], 2 * H, E, &s.angle[r * E], &s.angle[r * E + turns]);
            const int64_t slot = position(r) % C;
            for (int g = 0; g < 2 * H; g++) memcpy(kv + (int64_t(g) * C + slot) * E, qkv[r] + D + g * E, 4 * E);
        }
        for (int r = 0; r < n; r++) {
            const float* kv = rows.state[r / PAIR] + half.keys_at + int64_t(l) * 2 * H * C * E;
            const int filled = int(std::min<int64_t>(position(r) + 1, C));
            // The second step of the frame has already taken the oldest slot when the first one looks.
            const int hole = r % PAIR == 0 && position(r) + 1 >= C ? int((position(r) + 1) % C) : -1;
            for (int h = 0; h < H; h++)
                attend(qkv[r] + h * E, kv + int64_t(h) * C * E, kv + int64_t(H + h) * C * E, filled, E, s.score.data(),
                       mixed[r] + h * E, hole);
        }
        multiply(*y.out, mixed, n, {x, nullptr, y.scale, true});
        for (int r = 0; r < n; r++) y.norm2(x[r], normed[r], D);
        y.feed(-1, normed, n, x, s.wide);
    }
}

void Mimi::quantise(const Taking& rows, const float* const* z, int64_t* codes) const {
    const int B = rows.count();
    float *const *rest = s.projected.shape(B, book_dim), *const *scores = s.scores.shape(B, entries);
    for (int k = 0; k < books; k++) {
        if (k < 2) multiply(*book_in[k], z, B, {rest});
        multiply(*book[k], rest, B, {scores, book_bias[k]});
        for (int b = 0; b < B; b++) {
            int64_t best = std::max_element(scores[b], scores[b] + entries) - scores[b];
            codes[rows.row[b] * books + k] = best;
            each2(rest[b], vectors[k] + best * book_dim, rest[b], book_dim, [](vf a, vf e) { return a - e; });
        }
    }
}

void Mimi::encode(const Taking& rows, const float* pcm, int64_t* codes) const {
    const int B = rows.count();
    s.a.resize(std::max(s.a.size(), size_t(B) * SAMPLES));
    for (int b = 0; b < B; b++) memcpy(&s.a[size_t(b) * SAMPLES], pcm + rows.row[b] * SAMPLES, 4 * SAMPLES);
    run(encoder, rows, SAMPLES);
    std::vector<float*> x(B * PAIR);
    for (int r = 0; r < B * PAIR; r++) x[r] = s.a.data() + size_t(r) * D;
    transformer(encoder, rows, x.data());
    for (int b = 0; b < B; b++)
        if (*rows.frames[b] == 0)  // before its start a row holds its first step
            for (int t = 0; t < downsample.tail(); t++) memcpy(rows.state[b] + downsample.at + t * D, x[b * PAIR], 4 * size_t(D));
    float* const* latent = s.z.shape(B, D);
    convolve(downsample, rows, PAIR, s.a.data(), latent[0], false);
    quantise(rows, latent, codes);
    for (int64_t* frames : rows.frames) ++*frames;
}

void Mimi::decode(const Taking& rows, const int64_t* codes, float* pcm) const {
    const int B = rows.count();
    s.a.resize(std::max(s.a.size(), size_t(B) * PAIR * D));
    std::vector<float*> x(B * PAIR);
    for (int r = 0; r < B * PAIR; r++) x[r] = s.a.data() + size_t(r) * D;
    float* now = s.z.shape(1, D)[0];
    for (int b = 0; b < B; b++) {
        std::fill_n(now, D, 0.f);
        for (int k = 0; k < books; k++)
            each2(now, sound[k] + codes[rows.row[b] * books + k] * D, now, D, [](vf a, vf e) { return a + e; });
        float* before = rows.state[b] + decoder.resample_at;
        for (int j = 0; j < PAIR; j++)  // upsample: [2 * PAIR, D], one filter for each channel
            for (int d = 0; d < D; d++) x[b * PAIR + j][d] = upsample[j * D + d] * now[d] + upsample[(PAIR + j) * D + d] * before[d];
        memcpy(before, now, 4 * size_t(D));
    }
    transformer(decoder, rows, x.data());
    run(decoder, rows, PAIR);
    for (int b = 0; b < B; b++) memcpy(pcm + rows.row[b] * SAMPLES, &s.a[size_t(b) * SAMPLES], 4 * SAMPLES);
    for (int64_t* frames : rows.frames) ++*frames;
}

}  // namespace dx

extern "C" {

void* dx_mimi(const int64_t* ints, const float* floats, const float* const* vectors, const dx::Matrix* const* matrices) {
    return new dx::Mimi({ints, floats, vectors, matrices});
}

void dx_mimi_free(void* m) { delete static_cast<dx::Mimi*>(m); }

// Floats of one row's state: of the encoder (0) or the decoder (1).
int64_t dx_mimi_state(const void* m, int half) {
    const auto& mimi = *static_cast<const dx::Mimi*>(m);
    return half ? mimi.decoder.size : mimi.encoder.size;
}

void dx_mimi_encode(const void* m, int B, const float* pcm, float* state, int64_t* frames, int64_t* codes, const uint8_t* active) {
    const auto& mimi = *static_cast<const dx::Mimi*>(m);
    dx::Taking rows(B, state, mimi.encoder.size, frames, active);
    if (rows.count()) mimi.encode(rows, pcm, codes);
}

void dx_mimi_decode(const void* m, int B, const int64_t* codes, float* state, int64_t* frames, float* pcm, const uint8_t* active) {
    const auto& mimi = *static_cast<const dx::Mimi*>(m);
    dx::Taking rows(B, state, mimi.decoder.size, frames, active);
    if (rows.count()) mimi.decode(rows, codes, pcm);
}
}
