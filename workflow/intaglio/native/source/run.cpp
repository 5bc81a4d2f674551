// The program of the encoder (intaglio.execution.program) on the tokens of a batch that are not padding.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "model.hpp"
#include "multiply.hpp"

namespace intaglio {

namespace {
// Tokens that are computed together: intermediate results then stay in the caches.
constexpr int TOKENS = 1024;
}  // namespace

// Take as many whole sequences as fit, from `first` on; return the first that is left.
int Model::take(const int64_t *ids, const int64_t *mask, const int64_t *types, int first, int batch, int length,
                Tokens &tokens) const {
  int row = first;
  for (; row < batch; row++) {
    const int64_t *own = ids + static_cast<ptrdiff_t>(row) * length;
    const int64_t *kept = mask ? mask + static_cast<ptrdiff_t>(row) * length : nullptr;
    int count = length;
    if (kept) count = static_cast<int>(std::count_if(kept, kept + length, [](int64_t m) { return m != 0; }));
    const bool every = count == length || count == 0;
    const bool extra = !every && kept[0] == 0;
    const int wanted = every ? length : count + extra;
    const int already = static_cast<int>(tokens.ids.size());
    if (already && already + wanted > TOKENS) break;
    tokens.sequences.push_back({already, wanted, extra, count == 0});
    tokens.longest = std::max(tokens.longest, wanted);
    int64_t seen = 0;
    for (int i = 0; i < length; i++) {
      const bool padding = own[i] == embeddings_.padding_index;
      seen += !padding;
      if (!every && i && !kept[i]) continue;
      tokens.ids.push_back(own[i]);
      const int64_t counted = padding ? 0 : seen;
      tokens.positions.push_back(embeddings_.positions_from_padding ? counted + embeddings_.padding_index : i);
      tokens.types.push_back(types ? types[static_cast<ptrdiff_t>(row) * length + i] : 0);
      tokens.places.push_back(kept && !kept[i] ? -1 : static_cast<ptrdiff_t>(row) * length + i);
    }
  }
  return row;
}

void Model::reserve(const Tokens &tokens) {
  const size_t rows = tokens.ids.size() + ROWS, first = tokens.sequences.size() + ROWS;
  wide_.reserve(rows * std::max(width_, embeddings_.width));
  sums_.reserve(rows * std::max(width_, embeddings_.width));
  narrow_.reserve(rows * short_stride_);
  projections_.reserve(rows * 3 * attention_stride_);
  context_.reserve(rows * attention_stride_);
  middle_.reserve(rows * middle_stride_);
  first_wide_.reserve(first * width_);
  first_narrow_.reserve(first * short_stride_);
  first_projections_.reserve(first * 3 * attention_stride_);
  const int keys = padded(tokens.longest, 4 * PANEL), width = padded(head_width_, 4 * PANEL);
  for (ThreadMemory &memory : memory_) {
    const size_t orders = static_cast<size_t>(keys) / PANEL * width / QUAD * 2;
    memory.scratch = {memory.packed.reserve(static_cast<size_t>(keys) * width * 2),
                      memory.bias.reserve(keys + width),
                      memory.order.reserve(orders),
                      memory.ends.reserve(ENDS * (keys + width) / PANEL),
                      memory.scores.reserve(static_cast<size_t>(ROWS) * keys),
                      memory.shares.reserve(static_cast<size_t>(2 * ROWS) * keys)};
  }
}

void Model::embed(const Tokens &tokens, Rows rows) {
  std::optional<Clock> clock(spent_[EMBEDDINGS]);
  const int width = embeddings_.width;
  const int block = std::max(1, divided(rows.count, TASKS * threads_.count()));
  threads_.run(divided(rows.count, block), [&](int task, int) {
    const int last = std::min(rows.count, (task + 1) * block);
    for (int row = task * block; row < last; row++) {
      int32_t *total = sums_.data() + static_cast<ptrdiff_t>(row) * width;
      const int64_t indices[] = {tokens.ids[row], tokens.positions[row], tokens.types[row]};
      for (size_t t = 0; t < embeddings_.tables.size(); t++) {
        const int8_t *entry = embeddings_.tables[t] + indices[t] * width;
        const std::vector<int32_t> &multipliers = embeddings_.multipliers[t];
        const int32_t multiplier = multipliers[multipliers.size() > 1 ? indices[t] : 0];
        for (int i = 0; i < width; i++) total[i] = (t ? total[i] : 0) + entry[i] * multiplier;
      }
      if (!integer_)
        for (int i = 0; i < width; i++) {
          const float real = static_cast<float>(total[i]) * embeddings_.scale;
          std::memcpy(total + i, &real, sizeof real);
        }
    }
  });
  clock.reset();
  normalize(embeddings_.norm, sums_.data(), rows.wide, rows.narrow, rows.count);
}

// Bring narrow embeddings to the width of the layers.
void Model::project(Rows rows) {
  const Clock clock(spent_[EMBEDDINGS]);
  const LinearLayer &layer = embeddings_.projection;
  Epilogue e{integer_ ? Epilogue::SUM : Epilogue::REAL_SUM, sums_.data(), width_, layer.scale.data(),
             layer.multiplier.data(), layer.shift};
  multiply(layer.weight, rows.narrow, short_stride_, rows.count, e);
  const int shift = embeddings_.projection_shift;
  for (int row = 0; row < rows.count; row++)
    for (int i = 0; i < width_; i++) {
      const ptrdiff_t place = static_cast<ptrdiff_t>(row) * width_ + i;
      int32_t x = sums_.data()[place];
      rows.wide[place] = x;
      if (integer_) {
        x = (x + (1 << (shift - 1))) >> shift;
      } else {
        float real;
        std::memcpy(&real, &x, sizeof real);
        x = static_cast<int32_t>(std::nearbyint(std::clamp(real * embeddings_.projection_inverse, -128.0f, 127.0f)));
      }
      rows.narrow[static_cast<ptrdiff_t>(row) * short_stride_ + i] =
          static_cast<uint8_t>(std::clamp(x, -128, 127) + ZERO);
    }
}

void Model::normalize(const NormLayer &layer, const int32_t *x, int32_t *wide, uint8_t *narrow, int rows) {
  const Clock clock(spent_[LAYER_NORM]);
  const int width = layer.norm.width, block = std::max(1, divided(rows, TASKS * threads_.count()));
  threads_.run(divided(rows, block), [&](int task, int) {
    const ptrdiff_t first = static_cast<ptrdiff_t>(task) * block;
    const int count = std::min<int>(block, rows - static_cast<int>(first));
    kernels_.norm(layer.norm, x + first * width, width, wide + first * width, width, narrow + first * short_stride_,
                  short_stride_, count);
  });
}

void Model::multiply(const Weight &weight, const uint8_t *x, int stride, int rows, const Epilogue &e, int first_panel,
                     int last_panel) {
  intaglio::multiply(kernels_, threads_, weight, x, stride, rows, e, first_panel, last_panel);
}

// A linear layer's result plus the residual, and its LayerNorm, into `out` and the bytes beside it.
void Model::sum(const LinearLayer &layer, const uint8_t *x, int stride, int skip, const int32_t *residual, int rows,
                const NormLayer &norm, int32_t *out) {
  Epilogue e{integer_ ? Epilogue::SUM : Epilogue::REAL_SUM, sums_.data(), width_, layer.scale.data(),
             layer.multiplier.data(), layer.shift, skip, residual, width_};
  {
    const Clock clock(spent_[LINEAR_SUM]);
    multiply(layer.weight, x, stride, rows, e);
  }
  uint8_t *narrow = out == wide_.data() ? narrow_.data() : first_narrow_.data();
  normalize(norm, sums_.data(), out, narrow, rows);
}

void Model::first_tokens(const Tokens &tokens, Rows from, Rows to) {
  for (size_t i = 0; i < tokens.sequences.size(); i++) {
    const ptrdiff_t row = tokens.sequences[i].first;
    std::memcpy(to.wide + i * width_, from.wide + row * width_, width_ * sizeof(int32_t));
    std::memcpy(to.narrow + i * short_stride_, from.narrow + row * short_stride_, width_);
  }
}

void Model::attend(const Layer &layer, const Tokens &tokens, bool last) {
  const Clock clock(spent_[ATTENTION]);
  const int width = layer.heads * head_width_, stride = 3 * attention_stride_;
  const int sequences = static_cast<int>(tokens.sequences.size());
  threads_.run(sequences * layer.heads, [&](int task, int thread) {
    const int index = task / layer.heads, column = task % layer.heads * head_width_;
    const Tokens::Sequence &sequence = tokens.sequences[index];
    const uint8_t *own = projections_.data() + static_cast<ptrdiff_t>(sequence.first) * stride + column;
    const uint8_t *keys = own + static_cast<ptrdiff_t>(sequence.first_key) * stride + width;
    // The last layer's result is needed for the first tokens only.
    const uint8_t *query = last ? first_projections_.data() + static_cast<ptrdiff_t>(index) * stride + column : own;
    const int row = last ? index : sequence.first;
    kernels_.attend({query, keys, keys + width, stride, last ? 1 : sequence.count,
                     sequence.count - sequence.first_key, head_width_, sequence.blind, layer.softmax,
                     layer.context_multiplier.data(),
                     context_.data() + static_cast<ptrdiff_t>(row) * attention_stride_ + column, attention_stride_},
                    memory_[thread].scratch);
  });
}

void Model::layer(const Layer &layer, const Tokens &tokens, Rows all, Rows some, bool last) {
  Epilogue projected{Epilogue::SHORT, projections_.data(), 3 * attention_stride_, layer.projections_multiplier.data()};
  const Weight &projections = layer.projections.weight;
  int first_panel = 0;
  std::optional<Clock> clock(spent_[PROJECTIONS]);
  if (last) {
    first_tokens(tokens, all, some);
    // Queries of the first tokens, keys and values of all.
    const int panels = layer.heads * head_width_ / PANEL / kernels_.panels * kernels_.panels;
    const int until = padded(divided(layer.heads * head_width_, PANEL), kernels_.panels);
    Epilogue queries = projected;
    queries.out = first_projections_.data();
    multiply(projections, some.narrow, short_stride_, some.count, queries, 0, until);
    first_panel = panels;
  }
  multiply(projections, all.narrow, short_stride_, all.count, projected, first_panel);
  clock.reset();
  attend(layer, tokens, last);
  sum(layer.attention_output, context_.data(), attention_stride_, layer.attention_skip, some.wide, some.count,
      layer.attention_norm, some.wide);
  Epilogue activated{layer.integer_gelu ? Epilogue::GELU : Epilogue::REAL_GELU, middle_.data(), middle_stride_,
                     layer.gelu_scale.data()};
  activated.table = layer.gelu_table.data();
  activated.zero_point = layer.gelu_zero_point;
  activated.inverse = layer.gelu_inverse;
  {
    const Clock of_gelu(spent_[LINEAR_GELU]);
    multiply(layer.intermediate.weight, some.narrow, short_stride_, some.count, activated);
  }
  sum(layer.output, middle_.data(), middle_stride_, layer.output_skip, some.wide, some.count, layer.output_norm,
      some.wide);
}

void Model::run(const int64_t *ids, const int64_t *mask, const int64_t *types, int batch, int length, float *logits,
                float *hidden) {
  const std::lock_guard<std::mutex> one_at_a_time(running_);
  const bool every = head_.every_token;
  const size_t read = static_cast<size_t>(every ? batch * length : batch) * width_;
  std::vector<float> own;
  if (!hidden) {
    own.resize(read);
    hidden = own.data();
  }
  if (every) std::fill_n(hidden, read, 0.0f);
  for (int first = 0; first < batch;) {
    Tokens tokens;
    const int next = take(ids, mask, types, first, batch, length, tokens);
    for (size_t i = 0; i < tokens.ids.size(); i++) {
      const int64_t indices[] = {tokens.ids[i], tokens.positions[i], tokens.types[i]};
      for (size_t t = 0; t < embeddings_.tables.size(); t++)
        if (indices[t] < 0 || indices[t] >= embeddings_.rows[t])
          throw std::runtime_error(std::string(t == 0 ? "token " : t == 1 ? "position " : "token type ") +
                                   std::to_string(indices[t]) + " is not one of the model's " +
                                   std::to_string(embeddings_.rows[t]));
    }
    reserve(tokens);
    const int count = static_cast<int>(tokens.ids.size()), sequences = next - first;
    Rows all{wide_.data(), narrow_.data(), count};
    Rows some{first_wide_.data(), first_narrow_.data(), sequences};
    embed(tokens, all);
    if (embeddings_.projected) project(all);
    for (size_t i = 0; i < layers_.size(); i++) {
      const bool last = !every && i + 1 == layers_.size();
      layer(layers_[i], tokens, all, last ? some : all, last);
    }
    if (layers_.empty()) first_tokens(tokens, all, some);
    for (int i = 0; !every && i < sequences; i++)
      real(some.wide + static_cast<ptrdiff_t>(i) * width_, hidden + static_cast<ptrdiff_t>(first + i) * width_);
    for (int i = 0; every && i < count; i++)
      if (tokens.places[i] >= 0)
        real(all.wide + static_cast<ptrdiff_t>(i) * width_, hidden + tokens.places[i] * width_);
    first = next;
  }
  if (every)
    find_answers(hidden, mask, batch * length, logits);
  else
    classify(hidden, batch, logits);
}

// A token's result as real values.
void Model::real(const int32_t *wide, float *out) const {
  if (integer_)
    for (int i = 0; i < width_; i++) out[i] = static_cast<float>(wide[i]) * scale_;
  else
    std::memcpy(out, wide, width_ * sizeof(float));
}

}  // namespace intaglio
