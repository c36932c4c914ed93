// Python's view of sampling: one call for all rows of a step, without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "bind.h"
#include "sampler.h"
#include "team.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace qwell;

using RowArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kRowsOfAThread = 2;  // fewer are done before a second thread has woken

static void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// Rows are independent: workers take them from a counter.
struct SampleJob {
  const std::vector<const Sampler*>& samplers;
  const float* logits;
  size_t stride;
  const std::vector<const uint32_t*>& allow;
  std::vector<int> tokens;
  std::atomic<size_t> next{0};

  static void work(void* context, int) {
    SampleJob& job = *static_cast<SampleJob*>(context);
    for (size_t i; (i = job.next++) < job.samplers.size();)
      job.tokens[i] = job.samplers[i]->sample(job.logits + i * job.stride, job.allow[i]);
  }
};

// One team for all callers, who take turns; it sleeps between calls. A forked process makes its own.
static void run_by(int threads, SampleJob& job) {
  static std::mutex mutex;
  static std::unique_ptr<Team> team;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!team || !team->is_here() || team->size() != threads) team = std::make_unique<Team>(threads);
  team->run(SampleJob::work, &job);
}

static std::vector<int> sample(const std::vector<const Sampler*>& samplers, Rows logits,
                               const std::vector<std::optional<Ids>>& masks, int threads) {
  require(threads >= 1, "sampling needs a thread");
  require(logits.shape(0) == samplers.size() && masks.size() == samplers.size(), "one row, sampler and mask each");
  std::vector<const uint32_t*> allow;
  for (size_t i = 0; i < samplers.size(); i++) {
    require(samplers[i], "one row, sampler and mask each");
    require(int64_t(logits.shape(1)) >= samplers[i]->vocab(), "a row is shorter than the vocabulary");
    require(!masks[i] || int64_t(masks[i]->shape(0)) * 32 >= samplers[i]->vocab(),
            "a mask is shorter than the vocabulary");
    allow.push_back(masks[i] ? reinterpret_cast<const uint32_t*>(masks[i]->data()) : nullptr);
  }
  nb::gil_scoped_release release;
  SampleJob job{samplers, logits.data(), logits.shape(1), allow, std::vector<int>(samplers.size())};
  if (threads == 1 || samplers.size() < kRowsOfAThread * 2) SampleJob::work(&job, 0);
  else run_by(threads, job);
  return job.tokens;
}

void qwell::bind_sampler(nb::module_& m) {
  m.attr("NOT_FINITE") = int(Sampler::NotFinite);
  m.attr("NOTHING_LEFT") = int(Sampler::NothingLeft);
  nb::class_<Sampler>(m, "Sampler", "One request's rule of choice, and the tokens its penalties count.")
      .def(
          "__init__",
          [](Sampler* self, int vocab, Ids prompt, double temperature, double top_p, double min_p, int top_k,
             float repetition, float presence, float frequency, uint64_t seed, uint64_t choice, int min_tokens,
             std::vector<std::pair<int32_t, float>> bias, std::vector<int32_t> stop_ids) {
            require(vocab >= 1 && vocab <= 1 << 23, "a vocabulary of 1 to 2^23 tokens can be sampled");
            // Beyond these a draw has no end, or none is left to draw; SamplingParams says it to people.
            require(temperature == 0 || (temperature >= 1e-5 && temperature <= 100),
                    "temperature is neither 0 nor in 1e-5 .. 100");
            require(top_p > 0 && top_p <= 1 && min_p >= 0 && min_p <= 1 && top_k >= 0,
                    "top_p, min_p or top_k is out of range");
            const SamplingRule rule{temperature, top_p,     min_p, top_k,  repetition,
                                    presence,    frequency, seed,  choice, min_tokens};
            const std::vector<int32_t> ids(prompt.data(), prompt.data() + prompt.shape(0));
            new (self) Sampler(rule, vocab, ids, std::move(bias), std::move(stop_ids));
          },
          nb::kw_only(), "vocab"_a, "prompt"_a, "temperature"_a, "top_p"_a, "min_p"_a, "top_k"_a, "repetition"_a,
          "presence"_a, "frequency"_a, "seed"_a, "choice"_a, "min_tokens"_a, "bias"_a, "stop_ids"_a)
      .def("push", &Sampler::push, "token"_a, "The reply has this token.")
      .def_prop_ro("position", &Sampler::position, "How many tokens prompt and reply have.");
  m.def("sample", &sample, "samplers"_a, "logits"_a.noconvert(), "masks"_a, "threads"_a = 1,
        "The next token of each row, or NOT_FINITE or NOTHING_LEFT; bit t % 32 of word t / 32 of a mask allows t.");
  m.def(
      "largest",
      [](RowArray x, int n) {
        nb::gil_scoped_release release;
        return largest(x.data(), int(x.shape(0)), n);
      },
      "x"_a.noconvert(), "n"_a, "The ids of the n largest, largest first, ties to the lowest id.");
  m.def(
      "log_sum_exp",
      [](RowArray x) {
        require(x.shape(0) >= 1 && x.shape(0) <= 1 << 23, "a row of 1 to 2^23 logits can be summed");
        nb::gil_scoped_release release;
        return log_sum_exp(x.data(), int(x.shape(0)));
      },
      "x"_a.noconvert());
}
