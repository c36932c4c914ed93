#if defined(__x86_64__)
#include "forms.h"

#include <stdexcept>

#include "../cpu.h"
#include "../tile_health.h"

namespace qwell {

static const TrainForm kForms[] = {{"avx512", kTrainRowsAvx512, kGemmAvx512},
                                   {"avx512_bf16", kTrainRowsAvx512Bf16, kGemmAvx512Bf16},
                                   {"amx", kTrainRowsAvx512Bf16, kGemmAmx}};

std::vector<std::string> train_forms() {
  const bool runs[] = {cpu().avx512, cpu().avx512_bf16, cpu().avx512_bf16 && amx_status() == "ok"};
  std::vector<std::string> names;
  for (int i = 0; i < 3; i++)
    if (runs[i]) names.push_back(kForms[i].name);
  return names;
}

const TrainForm& train_form(const std::string& name) {
  for (const std::string& one : train_forms())
    for (const TrainForm& form : kForms)
      if (one == name && name == form.name) return form;
  throw std::invalid_argument("training kernels of form '" + name + "' do not run here");
}

uint8_t* GemmScratch::at_least(int64_t bytes) {
  if (bytes > region_.size()) region_ = Region(bytes, true);
  return region_.data();
}

}  // namespace qwell
#endif
