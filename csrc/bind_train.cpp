// Python's view of the training kernels: addresses and sizes of tensors the caller keeps alive and
// has checked (qwell/train/kernels.py), rows dealt to threads, no algorithm.
#include "bind.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "team.h"
#include "train/attention.h"
#include "train/forms.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace qwell {
namespace {

#if defined(__x86_64__)

template <class P>
P* at(uintptr_t address) {
  return reinterpret_cast<P*>(address);
}
using Address = uintptr_t;
using Half = const uint16_t;

// Threads and scratch memory of the kernels; calls take turns.
class TrainKernels {
 public:
  TrainKernels(int threads, const std::string& form) : form_(train_form(form)), team_(threads) {}

  // a2 null: no second pair.
  void gemm(Address a, int64_t a_row, int64_t a_column, Address b, int64_t b_row, int64_t b_column, Address a2,
            int64_t a2_row, int64_t a2_column, Address b2, int64_t b2_row, int64_t b2_column, Address bias, Address c,
            int m, int n, int k, int k2, bool add, bool wide) {
    if ((a_row != 1 && a_column != 1) || (b_row != 1 && b_column != 1) || m < 1 || n < 1 || k < 1)
      throw std::invalid_argument("gemm: an operand has no contiguous axis, or nothing in it");
    if (k2 < 0 || (k2 && ((a2_row != 1 && a2_column != 1) || (b2_row != 1 && b2_column != 1))))
      throw std::invalid_argument("gemm: a second operand has no contiguous axis");
    Gemm g{{at<Half>(a), a_row, a_column},
           {at<Half>(b), b_row, b_column},
           at<Half>(bias),
           at<uint16_t>(c),
           n,
           m,
           n,
           k,
           add};
    g.a2 = {at<Half>(a2), a2_row, a2_column}, g.b2 = {at<Half>(b2), b2_row, b2_column}, g.k2 = k2;
    if (wide) g.sums = at<float>(c);
    nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    form_.gemm.team(team_, scratch_, g);
  }

  // wide: x (and its gradient) is float32.
  void norm(Address x, Address weight, Address y, Address rstd, int64_t rows, int n, float eps, bool wide) {
    deal(rows, 1, [=, this](int, int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; r++) {
        uint16_t* out = at<uint16_t>(y) + r * n;
        if (wide) form_.rows.norm_wide(at<const float>(x) + r * n, at<Half>(weight), n, eps, out, at<float>(rstd) + r);
        else form_.rows.norm(at<Half>(x) + r * n, at<Half>(weight), n, eps, out, at<float>(rstd) + r);
      }
    });
  }

  void norm_back(Address grad, Address x, Address weight, Address rstd, Address grad_x, Address grad_weight,
                 int64_t rows, int n, bool wide) {
    std::vector<float> sums(grad_weight ? size_t(team_.size()) * n : 0, 0.0f);
    deal(rows, 1, [&](int id, int64_t lo, int64_t hi) {
      float* sum = grad_weight ? sums.data() + int64_t(id) * n : nullptr;
      for (int64_t r = lo; r < hi; r++) {
        const int64_t to = r * n;
        const float scale = at<const float>(rstd)[r];
        if (wide)
          form_.rows.norm_wide_back(at<Half>(grad) + to, at<const float>(x) + to, at<Half>(weight), n, scale,
                                    at<float>(grad_x) + to, sum);
        else
          form_.rows.norm_back(at<Half>(grad) + to, at<Half>(x) + to, at<Half>(weight), n, scale,
                               at<uint16_t>(grad_x) + to, sum);
      }
    });
    for (size_t i = 0; i < sums.size(); i++) at<float>(grad_weight)[i % n] += sums[i];
  }

  void rope(Address x, Address cos, Address sin, Address y, int64_t rows, int heads, int half, float sign) {
    const int64_t width = int64_t(heads) * half * 2;
    deal(rows, 1, [=, this](int, int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; r++)
        form_.rows.rope(at<const float>(x) + r * width, at<const float>(cos) + r * half,
                        at<const float>(sin) + r * half, heads, half, sign, at<float>(y) + r * width);
    });
  }

  // gate16, up16: where gate and up go rounded, which are float32 then; else null.
  void silu_mul(Address gate, Address up, Address y, int64_t n, Address gate16, Address up16) {
    deal(n, 1024, [=, this](int, int64_t lo, int64_t hi) {
      if (gate16)
        form_.rows.silu_mul_wide(at<const float>(gate) + lo, at<const float>(up) + lo, hi - lo, at<uint16_t>(y) + lo,
                                 at<uint16_t>(gate16) + lo, at<uint16_t>(up16) + lo);
      else form_.rows.silu_mul(at<Half>(gate) + lo, at<Half>(up) + lo, hi - lo, at<uint16_t>(y) + lo);
    });
  }

  // wide: the gradients of gate and up are float32.
  void silu_mul_back(Address grad, Address gate, Address up, Address grad_gate, Address grad_up, int64_t n, bool wide) {
    deal(n, 1024, [=, this](int, int64_t lo, int64_t hi) {
      Half *d = at<Half>(grad) + lo, *g = at<Half>(gate) + lo, *u = at<Half>(up) + lo;
      if (wide) form_.rows.silu_mul_wide_back(d, g, u, hi - lo, at<float>(grad_gate) + lo, at<float>(grad_up) + lo);
      else form_.rows.silu_mul_back(d, g, u, hi - lo, at<uint16_t>(grad_gate) + lo, at<uint16_t>(grad_up) + lo);
    });
  }

  void round(Address x, int64_t n, Address y) {
    deal(n, 1024, [=, this](int, int64_t lo, int64_t hi) {
      form_.rows.round(at<const float>(x) + lo, hi - lo, at<uint16_t>(y) + lo);
    });
  }

  // logits [rows, n] float32; the gradient of a row takes the first half of its place.
  void cross_entropy(Address logits, Address targets, Address nll, int64_t rows, int n, float scale) {
    for (int64_t r = 0; r < rows; r++)
      if (at<const int64_t>(targets)[r] < 0 || at<const int64_t>(targets)[r] >= n)
        throw std::invalid_argument("cross_entropy: a target is outside the vocabulary");
    deal(rows, 1, [=, this](int, int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; r++) {
        float* row = at<float>(logits) + r * n;
        at<float>(nll)[r] = form_.rows.cross_entropy(row, n, int(at<const int64_t>(targets)[r]), scale,
                                                     reinterpret_cast<uint16_t*>(row));
      }
    });
  }

  // q, out [rows, heads, head_dim]; k, v [rows, kv_heads, head_dim]; lse [rows, heads]; splits
  // [seqs + 1] int32. With grad_out: the backward pass.
  void attention(Address q, Address k, Address v, Address out, Address lse, Address splits, int seqs, int heads,
                 int kv_heads, int head_dim, Address grad_out, Address grad_q, Address grad_k, Address grad_v) {
    const int64_t q_row = int64_t(heads) * head_dim, kv_row = int64_t(kv_heads) * head_dim;
    const int group = heads / kv_heads;
    const auto job = [=](int item) {
      const int head = item % kv_heads, lo = at<const int32_t>(splits)[item / kv_heads];
      const int64_t own_q = lo * q_row + int64_t(head) * group * head_dim, own = lo * kv_row + int64_t(head) * head_dim;
      return AttentionJob{at<Half>(q) + own_q,
                          at<Half>(k) + own,
                          at<Half>(v) + own,
                          q_row,
                          kv_row,
                          at<const int32_t>(splits)[item / kv_heads + 1] - lo,
                          head_dim,
                          group,
                          at<uint16_t>(out) + own_q,
                          at<float>(lse) + int64_t(lo) * heads + head * group,
                          heads,
                          at<Half>(grad_out) + own_q,
                          at<uint16_t>(grad_q) + own_q,
                          at<uint16_t>(grad_k) + own,
                          at<uint16_t>(grad_v) + own};
    };
    std::atomic<int> next{0};
    attention_.resize(team_.size());
    deal(team_.size(), 1, [&](int id, int64_t, int64_t) {
      for (int item; (item = next++) < seqs * kv_heads;)
        (grad_out ? attention_backward : attention_forward)(form_, attention_[id], job(item));
    });
  }

  void dequantise(Address codes, Address scale, Address minimum, int bits, int zero, int group, int64_t rows, int n,
                  Address out) {
    if (group < 16 || group % 16 || n % group || (bits == 4 && n % 32))
      throw std::invalid_argument("dequantise: groups must be whole multiples of sixteen");
    const int groups = n / group;
    deal(rows, 1, [=, this](int, int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; r++)
        form_.rows.dequantise(at<const uint8_t>(codes) + r * n * bits / 8, at<const float>(scale) + r * groups,
                              minimum ? at<const float>(minimum) + r * groups : nullptr, bits, zero, group, n,
                              at<uint16_t>(out) + r * n);
    });
  }

  double square_sum(Address x, int64_t n) {
    std::vector<double> sums(team_.size(), 0.0);
    deal(n, 4096, [&](int id, int64_t lo, int64_t hi) { sums[id] = form_.rows.square_sum(at<Half>(x) + lo, hi - lo); });
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
  }

  void adamw(Address weight, Address grad, int64_t n, Address m, Address v, Address m_scale, Address v_scale,
             Address low, float beta1, float beta2, float eps, float decay, float lr, float grad_scale, float correct1,
             float correct2, uint64_t seed) {
    AdamWState state{};
    if (m_scale) {
      state.m8 = at<uint8_t>(m), state.v8 = at<uint8_t>(v);
      state.m_scale = at<float>(m_scale), state.v_scale = at<float>(v_scale);
    } else {
      state.m = at<float>(m), state.v = at<float>(v);
    }
    state.low = at<int16_t>(low);
    const AdamW step{beta1, beta2, eps, decay, lr, grad_scale, correct1, correct2, seed};
    deal(n, 256, [=, this](int, int64_t lo, int64_t hi) {
      form_.rows.adamw(step, state, at<uint16_t>(weight), at<Half>(grad), lo, hi);
    });
  }

 private:
  // Cuts 0 .. n into one part a thread, at multiples of `grain`.
  template <class Work>
  void deal(int64_t n, int64_t grain, const Work& work) {
    struct Job {
      const Work& work;
      int64_t n, share;
    } job{work, n, ((n + team_.size() - 1) / team_.size() + grain - 1) / grain * grain};
    nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    team_.run(
        [](void* context, int id) {
          const Job& j = *static_cast<Job*>(context);
          const int64_t lo = std::min(j.n, id * j.share), hi = std::min(j.n, lo + j.share);
          if (lo < hi) j.work(id, lo, hi);
        },
        &job);
  }

  const TrainForm& form_;
  std::mutex mutex_;
  Team team_;
  GemmScratch scratch_;
  std::vector<AttentionScratch> attention_;
};

#endif

}  // namespace

void bind_train(nb::module_& m) {
#if defined(__x86_64__)
  nb::class_<TrainKernels>(m, "TrainKernels")
      .def(nb::init<int, const std::string&>(), "threads"_a, "form"_a)
      .def_static("forms", &train_forms, "Those that run here, the best last.")
      .def("gemm", &TrainKernels::gemm, "a"_a, "a_row"_a, "a_column"_a, "b"_a, "b_row"_a, "b_column"_a, "a2"_a,
           "a2_row"_a, "a2_column"_a, "b2"_a, "b2_row"_a, "b2_column"_a, "bias"_a, "c"_a, "m"_a, "n"_a, "k"_a, "k2"_a,
           "add"_a, "wide"_a)
      .def("norm", &TrainKernels::norm, "x"_a, "weight"_a, "y"_a, "rstd"_a, "rows"_a, "n"_a, "eps"_a, "wide"_a)
      .def("norm_back", &TrainKernels::norm_back, "grad"_a, "x"_a, "weight"_a, "rstd"_a, "grad_x"_a, "grad_weight"_a,
           "rows"_a, "n"_a, "wide"_a)
      .def("rope", &TrainKernels::rope, "x"_a, "cos"_a, "sin"_a, "y"_a, "rows"_a, "heads"_a, "half"_a, "sign"_a)
      .def("silu_mul", &TrainKernels::silu_mul, "gate"_a, "up"_a, "y"_a, "n"_a, "gate16"_a, "up16"_a)
      .def("silu_mul_back", &TrainKernels::silu_mul_back, "grad"_a, "gate"_a, "up"_a, "grad_gate"_a, "grad_up"_a, "n"_a,
           "wide"_a)
      .def("round", &TrainKernels::round, "x"_a, "n"_a, "y"_a)
      .def("cross_entropy", &TrainKernels::cross_entropy, "logits"_a, "targets"_a, "nll"_a, "rows"_a, "n"_a, "scale"_a)
      .def("attention", &TrainKernels::attention, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a, "splits"_a, "seqs"_a,
           "heads"_a, "kv_heads"_a, "head_dim"_a, "grad_out"_a, "grad_q"_a, "grad_k"_a, "grad_v"_a)
      .def("dequantise", &TrainKernels::dequantise, "codes"_a, "scale"_a, "minimum"_a, "bits"_a, "zero"_a, "group"_a,
           "rows"_a, "n"_a, "out"_a)
      .def("square_sum", &TrainKernels::square_sum, "x"_a, "n"_a)
      .def("adamw", &TrainKernels::adamw, "weight"_a, "grad"_a, "n"_a, "m"_a, "v"_a, "m_scale"_a, "v_scale"_a, "low"_a,
           "beta1"_a, "beta2"_a, "eps"_a, "decay"_a, "lr"_a, "grad_scale"_a, "correct1"_a, "correct2"_a, "seed"_a);
#else
  (void)m;
#endif
}

}  // namespace qwell
