// One instance of the kernels for each format, and the matrices' interface to Python.
#include "gemm.h"

namespace dx {

void multiply(const Matrix& m, const float* const* x, int n, const Into& to) {
    switch (m.format) {
        case F32: return multiply_as<F32>(m, x, n, to);
        case F16: return multiply_as<F16>(m, x, n, to);
        case BF16: return multiply_as<BF16>(m, x, n, to);
        case I8: return multiply_as<I8>(m, x, n, to);
        case I4: return multiply_as<I4>(m, x, n, to);
    }
}

}  // namespace dx

extern "C" {

void* dx_matrix(int format, int outputs, int inputs, const float* weight) {
    try {
        return new dx::Matrix(format, outputs, inputs, weight);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void dx_matrix_free(void* m) { delete static_cast<dx::Matrix*>(m); }

int64_t dx_matrix_bytes(const void* m) { return static_cast<const dx::Matrix*>(m)->bytes(); }

// y float32 [n, outputs] = x float32 [n, inputs] times the matrix.
void dx_matrix_multiply(const void* matrix, const float* x, int n, float* y) {
    const auto& m = *static_cast<const dx::Matrix*>(matrix);
    std::vector<const float*> in(n);
    std::vector<float*> out(n);
    for (int r = 0; r < n; r++) in[r] = x + size_t(r) * m.inputs, out[r] = y + size_t(r) * m.outputs;
    dx::multiply(m, in.data(), n, {out.data()});
}

// Reads `bytes` bytes as the kernels do; what it returns only keeps the reads from being left out.
float dx_read(const uint8_t* p, int64_t bytes) {
    dx::vf a = {}, b = {}, c = {}, d = {};
    for (int64_t i = 0; i + 256 <= bytes; i += 256) {
        const float* q = reinterpret_cast<const float*>(p + i);
        __builtin_prefetch(p + i + 2048);
        a += dx::load(q), b += dx::load(q + 16), c += dx::load(q + 32), d += dx::load(q + 48);
    }
    return dx::sum(a + b + c + d);
}
}
