// The language model's step; the order of the fields is that of `duplex/fast/lm.py`.
#pragma once
#include "layers.h"

#include <chrono>

namespace dx {

typedef void (*Mark)(int stage);  // told which stage begins, by those who measure
enum Stage { OTHER, TEMPORAL, DEPTH, SAMPLING };
enum Part { ELEMENTWISE, PRODUCTS, ATTENTION, CHOICE };  // the products of a feed-forward contain its activation

// Adds the nanoseconds since the part before to the part that has ended; without a place for them it does nothing.
struct Meter {
    int64_t *spent, last;
    explicit Meter(int64_t* spent_) : spent(spent_), last(spent_ ? now() : 0) {}
    static int64_t now() {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    void operator()(Part part) {
        if (!spent) return;
        int64_t time = now();
        spent[part] += time - last, last = time;
    }
};

struct Table {  // embeddings by id; a second table for ids that carry two tokens
    const float *first, *second;
    int entries;
    void add(int64_t id, float* x, int n) const;
};

struct Layer {
    Norm norm1, norm2;
    const Matrix *in, *out;
    const float* scale;
    FeedForward feed;
};

struct DepthLayer {
    Norm norm1, norm2;
    std::vector<const Matrix*> in, out;  // by position
    const float* scale;
    std::vector<FeedForward> feed;
};

// Of duplex/sampling.py.
constexpr float QUIET_FRAMES = 20, WISH_KEPT = 0.7f, WISH_ENOUGH = 1.5f;

struct Settings {
    int32_t audio_top_k, text_top_k, window;
    float log_penalty, patience;
};

struct Frame {  // what one step reads and writes; pointers may be null where marked (?)
    int64_t *frames, *seeds, *ring;  // [B], [B], [B, K, R]
    float* kv;                       // [L, B, 2 G, C, E]
    int64_t* recent;                 // [B, window]
    float* onset;                    // [B, 2]: the wish to speak, and frames since the last text
    const int64_t *user, *forced_text, *forced_system;  // (?) [B, n_user], [B], [B, n_system]
    const uint8_t* active;           // (?) [B]
    const float *bias, *heat;        // (?) [B, V]; [B, 2]: temperature of the text and of the audio
    int64_t *text_now, *tokens;      // [B], [B, 1 + generated]
    uint8_t* ready;                  // [B]
    float *text_logits, *extra;      // [B, V], [heads, B, extra_dim]
    Settings settings;
    Mark mark;                       // (?)
    int64_t* spent;                  // (?) [4]: nanoseconds of each Part, added up
};

struct LM {
    int D, H, G, L, C, K, n_system, n_user, dep_q, V, R, max_delay, pad, epad, text_initial, audio_initial;
    int rotary, sinus, gating, Dd, Hd, Gd, Ld, depth_rotary, depth_gating, extra_heads, extra_dim;
    float positional_scale;
    std::vector<int64_t> delays;
    const float *frequency, *sin_divisor, *depth_cos, *depth_sin, *depth_sinusoids, *text_bias;
    std::vector<Table> embed, depth_embed;
    std::vector<Layer> layers;
    std::vector<DepthLayer> depth_layers;
    Norm out_norm;
    const Matrix *text_head, *depth_in;  // depth_in: all positions' input projections, one below the other
    std::vector<Norm> depth_norms;
    std::vector<const Matrix*> heads, extra;
    std::vector<const float*> head_bias;

    explicit LM(Reader r);
    void step(const Frame& f, int B) const;

private:
    void temporal(const Frame& f, int B, const std::vector<int>& rows, Meter& ended) const;
    void depth(const Frame& f, const std::vector<int>& rows, const int64_t* forced, int generated, int64_t* codes,
               Meter& ended) const;
};

// sampling.cpp
int64_t pick(const float* logits, int n, float noise, float temperature, int top_k);
float uniform(int64_t seed, int64_t frame, int draw);  // draw from 0

}  // namespace dx
