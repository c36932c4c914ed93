// A model as a list of phases over static buffers. Python builds it once; a step walks it.
//
// A phase is what the threads do between two barriers. Its kinds:
//   Angles, Embed       first rows of a step
//   Linear              one or more products of the same input: prologue (select, norm), the
//                       matrices, on each tile an epilogue of row ops, and a destination
//   Attention           all queries against their pages
//   Rows                one row op from slot to slot, where nothing was fused
//   Store               keys or values from a slot into the pages, where nothing was fused
// A slot is [max_rows][padded width] floats. Everything is checked when a phase is added, so a step
// checks only its batch.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dispatch.h"
#include "kv_cache.h"
#include "memory.h"
#include "team.h"

namespace qwell {

struct RowStore;  // scratch.h

struct Weight {
  Format format;
  const uint8_t* packed;
  int n, k;  // k padded to the format's block; n columns that count
  int64_t panel_bytes;
  bool appended = false;  // not of the file: an adapter's
};

struct RowOp {
  enum Kind : int { Select, Norm, Rope, SiluMul, Add } kind;
  int other = -1;             // slot: angles of Rope, second addend of Add, up of SiluMul
  std::vector<float> weight;  // Norm
  int length = 0;             // Norm: columns per norm
  float eps = 0;
  bool moves() const { return kind == SiluMul || kind == Add; }  // may write elsewhere than it reads
};

struct Product {
  Weight weight;
  std::vector<float> bias;      // empty or n
  std::vector<RowOp> epilogue;  // never Select
  enum Dest : int { Slot, Keys, Values, Output, Pair } dest;
  int slot = -1;      // Dest::Slot
  int partner = -1;   // with SiluMul: the product that computes `up` (its dest is Pair)
  int layer = -1;     // Keys, Values
  int unit = kPanel;  // columns one thread computes together
};

struct Unit {
  int product, column, columns;
};

// The forms of its input rows that a linear phase reads.
struct Forms {
  bool f32 = false, bf16 = false, q8 = false, tiles = false;
};

struct Phase {
  enum Kind : int { Angles, Embed, Linear, Attention, Rows, Store } kind;
  std::string label;
  int in = -1, out = -1;  // slots
  bool out_rows = false;  // works on the R output rows (after a select)
  bool select = false;    // gathers the output rows while loading
  bool norm = false;
  RowOp op;  // the prologue's norm, or the op of a Rows phase
  std::vector<Product> products;
  std::vector<Unit> units;
  std::vector<int> first_unit;  // per thread, cut by bytes, where units are dealt
  int k = 0;                    // of its longest product
  Forms prompt_forms, reply_forms;
  // Prompt rows of silu(gate) * up go straight into the tiles of the next phase, which reads only them.
  bool packs_next = false, is_packed = false;
  Weight embedding;
  std::vector<float> inv_freq;
  int layer = -1;                      // Attention (in = queries), Store
  Product::Dest dest = Product::Slot;  // Store: Keys or Values
};

struct Batch {
  const int32_t *input_ids, *row_splits, *past, *prompt_len, *positions, *out_rows, *page_table;
  int rows, seqs, outs, max_pages;
};

class Program {
 public:
  Program(Shape shape, int max_rows, int threads, const Kernels& kernels, Region weights);
  ~Program();

  int slot(int width);
  // More packed weights, once, copied: their offsets go on behind the file, from the next 64 bytes.
  void append(const uint8_t* bytes, int64_t size);
  Weight weight(Format format, int n, int k, int64_t offset) const;
  void add(Phase phase);
  void finish();  // after the last phase: cuts work, allocates the arena

  // logits [outs, vocab]. Throws std::invalid_argument for a batch out of bounds, std::logic_error
  // in a process forked from the one that built the program: its threads are not there. Steps asked
  // for by several threads run one after another.
  void step(const Batch& batch, KvCache& kv, float* logits);

  const Shape shape;
  const int max_rows;
  int threads() const { return team_.size(); }
  const char* isa() const { return kernels_.name; }
  bool roles_differ() const;  // some prompt rows have a formula of their own
  int64_t weight_bytes() const { return weights_.size() + appended_.size(); }
  const std::vector<Phase>& phases() const { return phases_; }
  // Nanoseconds each phase took on worker 0 since the last call, barrier included.
  std::vector<int64_t> take_times();

 private:
  struct Scratch;
  struct Step;
  friend struct Worker;

  void check(const Batch& batch, const KvCache& kv) const;
  void check_phase(const Phase& phase) const;
  float* row(int slot, int r) const { return slots_[slot] + int64_t(r) * stride_[slot]; }

  void check_product(const Phase& phase, const Product& product) const;
  void check_op(const Phase& phase, const RowOp& op, int columns, int width) const;
  bool is_slot(int s) const { return s >= 0 && s < int(width_.size()); }
  bool is_layer(int layer) const { return layer >= 0 && layer < shape.layers; }

  void find_packed();
  // The tiled form of a linear phase's product, or null: its prompt rows are as its reply rows.
  TileKernels::LinearFn tiled(const Phase& phase, const Product& product) const;
  // The same over pairs. An adapter's factors are thin and never paired, so that a quantised file keeps one formula.
  Kernels::LinearFn paired(const Phase& phase, const Product& product) const {
    return product.weight.format == Format::BF16 && !product.weight.appended && !phase.out_rows ? kernels_.paired
                                                                                                : nullptr;
  }

  Team team_;
  const Kernels& kernels_;
  Region weights_, appended_, arena_, shared_;
  std::vector<int> width_, stride_;
  std::vector<float*> slots_;
  std::vector<Phase> phases_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
  std::unique_ptr<RowStore> shared_rows_;
  std::vector<int64_t> times_;
  std::mutex one_step_;
  int max_k_ = 0, max_unit_ = kPanel;
};

}  // namespace qwell
