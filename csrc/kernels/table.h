// Included at the end of every ISA file: the families over its V, as one table.
#pragma once

#include "attention.h"
#include "kv8.h"
#include "linear.h"
#include "rows.h"
#include "sampling.h"

#define QWELL_KERNEL_TABLE(name)                                                                        \
  {name,                                                                                                \
   {linear_float<LoadF32>, linear_float<LoadF16>, linear_float<LoadBF16>, linear_integer<Format::Q4_0>, \
    linear_integer<Format::Q4_1>, linear_integer<Format::Q5_0>, linear_integer<Format::Q5_1>,           \
    linear_integer<Format::Q8_0>, linear_integer<Format::Q2_K>, linear_integer<Format::Q3_K>,           \
    linear_integer<Format::Q4_K>, linear_integer<Format::Q5_K>, linear_integer<Format::Q6_K>},          \
   quantize,                                                                                            \
   rms_norm,                                                                                            \
   rope,                                                                                                \
   silu_mul,                                                                                            \
   add,                                                                                                 \
   attention,                                                                                           \
   attention_part,                                                                                      \
   attention_merge,                                                                                     \
   unpack_kv,                                                                                           \
   take,                                                                                                \
   weigh,                                                                                               \
   sum_from,                                                                                            \
   sum_exp}
