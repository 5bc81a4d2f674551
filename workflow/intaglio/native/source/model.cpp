#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace intaglio {

const Tensor *Constants::find(const std::string &name) const {
  auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

const Tensor &Constants::tensor(const std::string &name) const {
  const Tensor *found = find(name);
  if (!found) throw std::runtime_error(name + " is missing");
  return *found;
}

double Constants::number(const std::string &name) const {
  auto found = numbers.find(name);
  if (found == numbers.end()) throw std::runtime_error(name + " is missing");
  return found->second;
}

namespace {

template <class T> const T *data(const Tensor &tensor) { return static_cast<const T *>(tensor.data); }

int size(const Tensor &tensor, size_t dimension) { return static_cast<int>(tensor.sizes.at(dimension)); }

template <class T> Buffer<T> vector_of(const Constants &all, const std::string &name) {
  const Tensor *tensor = all.find(name);
  return tensor ? padded_vector<T>(data<T>(*tensor), size(*tensor, 0)) : Buffer<T>();
}

Buffer<float> copied(const Tensor &tensor) {
  size_t count = 1;
  for (int64_t size : tensor.sizes) count *= size;
  Buffer<float> found(count);
  std::memcpy(found.data(), tensor.data, count * sizeof(float));
  return found;
}

float number_or(const Constants &all, const std::string &name, float otherwise) {
  return all.has(name) ? static_cast<float>(all.number(name)) : otherwise;
}

int integer_or(const Constants &all, const std::string &name, int otherwise) {
  return all.has(name) ? static_cast<int>(all.number(name)) : otherwise;
}

LinearLayer linear(const Constants &all, const std::string &name, const Kernels &kernels, Threads &threads,
                   Pages &pages, int zero = ZERO) {
  const Tensor &weight = all.tensor(name + ".weight");
  const int out = size(weight, 0), in = size(weight, 1);
  LinearLayer found;
  const auto *bias = data<int32_t>(all.tensor(name + ".bias"));
  found.weight = PackedWeight(kernels, threads, data<int8_t>(weight), bias, in, out, zero, &pages);
  found.scale = vector_of<float>(all, name + ".scale");
  found.multiplier = vector_of<int32_t>(all, name + ".multiplier");
  found.shift = integer_or(all, name + ".shift", 0);
  return found;
}

NormLayer norm(const Constants &all, const std::string &name) {
  NormLayer found;
  Norm &n = found.norm;
  n.integer = all.number(name + ".integer") != 0;
  n.width = size(all.tensor(name + ".gamma"), 0);
  n.epsilon = static_cast<float>(all.number(name + ".epsilon"));
  if (n.integer) {
    n.gamma = (found.gamma = vector_of<int32_t>(all, name + ".gamma")).data();
    n.beta = (found.beta = vector_of<int32_t>(all, name + ".beta")).data();
    n.guards = (found.guards = vector_of<int64_t>(all, name + ".guards")).data();
    n.shortens = all.has(name + ".short_shift");
    n.short_shift = integer_or(all, name + ".short_shift", 0);
  } else {
    n.real_gamma = (found.real_gamma = vector_of<float>(all, name + ".gamma")).data();
    n.real_beta = (found.real_beta = vector_of<float>(all, name + ".beta")).data();
    n.shortens = all.has(name + ".inverse");
    n.inverse = number_or(all, name + ".inverse", 0);
  }
  return found;
}

Softmax softmax(const Constants &all, const std::string &name) {
  Softmax found;
  found.integer = all.number(name + ".integer") != 0;
  found.down = integer_or(all, name + ".down", 0);
  found.top = integer_or(all, name + ".top", 0);
  found.multiplier = integer_or(all, name + ".multiplier", 0);
  found.shift = integer_or(all, name + ".shift", 0);
  found.scale = number_or(all, name + ".scale", 0);
  found.factor = number_or(all, name + ".factor", 1);
  return found;
}

Layer layer_of(const Constants &all, const std::string &name, const Kernels &kernels, Threads &threads,
               Pages &pages, int head_width) {
  Layer found;
  found.projections = linear(all, name + ".projections", kernels, threads, pages);
  found.attention_output = linear(all, name + ".attention_output", kernels, threads, pages);
  found.intermediate = linear(all, name + ".intermediate", kernels, threads, pages);
  found.projections_multiplier = vector_of<float>(all, name + ".projections_multiplier");
  const std::vector<float> context(head_width, static_cast<float>(all.number(name + ".context_multiplier")));
  found.context_multiplier = padded_vector<float>(context.data(), head_width);
  found.heads = static_cast<int>(all.number(name + ".softmax.heads"));
  found.softmax = softmax(all, name + ".softmax");
  found.attention_skip = static_cast<int>(all.number(name + ".attention_skip"));
  found.output_skip = static_cast<int>(all.number(name + ".output_skip"));
  found.attention_norm = norm(all, name + ".attention_norm");
  found.output_norm = norm(all, name + ".output_norm");
  int zero = ZERO;
  found.integer_gelu = all.number(name + ".gelu.integer") != 0;
  if (found.integer_gelu) {
    found.gelu_scale = vector_of<float>(all, name + ".gelu.multiplier");
    found.gelu_zero_point = static_cast<int>(all.number(name + ".gelu.zero_point"));
    found.gelu_table.reserve(256);
    // The smaller the bytes, the less can sums of pairs saturate.
    const auto *entries = data<int8_t>(all.tensor(name + ".gelu.table"));
    zero = -*std::min_element(entries, entries + 256);
    for (int i = 0; i < 256; i++) found.gelu_table.data()[i] = static_cast<uint8_t>(entries[i] + zero);
  } else {
    found.gelu_scale = vector_of<float>(all, name + ".gelu.scale");
    found.gelu_inverse = static_cast<float>(all.number(name + ".gelu.inverse"));
  }
  found.output = linear(all, name + ".output", kernels, threads, pages, zero);
  return found;
}

Embeddings embeddings_of(const Constants &all, const Kernels &kernels, Threads &threads, Pages &pages) {
  Embeddings found;
  for (int i = 0; all.has("embeddings.tables." + std::to_string(i)); i++) {
    const Tensor &table = all.tensor("embeddings.tables." + std::to_string(i));
    found.tables.push_back(data<int8_t>(table));
    found.rows.push_back(table.sizes.at(0));
    const std::string multiplier = "embeddings.multipliers." + std::to_string(i);
    if (const Tensor *of_rows = all.find(multiplier)) {
      const auto *first = data<int32_t>(*of_rows);
      found.multipliers.emplace_back(first, first + size(*of_rows, 0));
    } else {
      found.multipliers.push_back({static_cast<int32_t>(all.number(multiplier))});
    }
    found.width = size(table, 1);
  }
  found.padding_index = static_cast<int>(all.number("embeddings.padding_index"));
  found.positions_from_padding = all.number("embeddings.positions_from_padding") != 0;
  found.scale = static_cast<float>(all.number("embeddings.scale"));
  found.norm = norm(all, "embeddings.norm");
  found.projected = all.has("embeddings.projection.weight");
  if (found.projected) found.projection = linear(all, "embeddings.projection", kernels, threads, pages);
  found.projection_shift = integer_or(all, "embeddings.projection_short_shift", 0);
  found.projection_inverse = number_or(all, "embeddings.projection_inverse", 0);
  return found;
}

Head head_of(const Constants &all) {
  Head found;
  found.output_weight = copied(all.tensor("head.output.weight"));
  found.output_bias = copied(all.tensor("head.output.bias"));
  found.labels = size(all.tensor("head.output.weight"), 0);
  found.every_token = all.has("head.padding");
  if (found.every_token) {
    found.padding = static_cast<float>(all.number("head.padding"));
    return found;
  }
  found.dense_weight = copied(all.tensor("head.dense.weight"));
  found.dense_bias = copied(all.tensor("head.dense.bias"));
  found.activation = static_cast<Head::Activation>(static_cast<int>(all.number("head.activation")));
  return found;
}

}  // namespace

Model::Model(const Constants &all, const Kernels &kernels, int threads)
    : kernels_(kernels),
      threads_(threads),
      width_(static_cast<int>(all.number("width"))),
      head_width_(static_cast<int>(all.number("head_width"))),
      scale_(static_cast<float>(all.number("scale"))),
      embeddings_(embeddings_of(all, kernels, threads_, pages_)),
      head_(head_of(all)),
      memory_(threads_.count()) {
  short_stride_ = padded(std::max(width_, embeddings_.width), 64);
  attention_stride_ = middle_stride_ = 0;
  const int count = static_cast<int>(all.number("layers"));
  for (int i = 0; i < count; i++) {
    layers_.push_back(layer_of(all, "layers." + std::to_string(i), kernels, threads_, pages_, head_width_));
    attention_stride_ = std::max(attention_stride_, padded(layers_[i].heads * head_width_, 64));
    middle_stride_ = std::max(middle_stride_, padded(layers_[i].intermediate.weight->out, 64));
  }
  integer_ = embeddings_.norm.norm.integer;
}

void Model::classify(const float *hidden, int batch, float *logits) {
  const Clock clock(spent_[HEAD]);
  float *dense = dense_.reserve(static_cast<size_t>(batch) * width_);
  constexpr int COLUMNS = 32;
  threads_.run((width_ + COLUMNS - 1) / COLUMNS, [&](int task, int) {
    kernels_.dense(head_.dense_weight.data(), head_.dense_bias.data(), width_, width_, hidden, batch, task * COLUMNS,
                   std::min(width_, (task + 1) * COLUMNS), dense);
  });
  for (int i = 0; i < batch * width_; i++) {
    const double x = dense[i];
    if (head_.activation == Head::TANH) dense[i] = static_cast<float>(std::tanh(x));
    if (head_.activation == Head::RELU) dense[i] = std::max(dense[i], 0.0f);
    if (head_.activation == Head::GELU) dense[i] = static_cast<float>(0.5 * x * (1 + std::erf(x * M_SQRT1_2)));
  }
  kernels_.dense(head_.output_weight.data(), head_.output_bias.data(), width_, head_.labels, dense, batch, 0,
                 head_.labels, logits);
}

// The logits of every token, and of padding.
void Model::find_answers(const float *hidden, const int64_t *mask, int rows, float *logits) {
  const Clock clock(spent_[HEAD]);
  constexpr int BLOCK = 64;
  threads_.run((rows + BLOCK - 1) / BLOCK, [&](int task, int) {
    const ptrdiff_t first = static_cast<ptrdiff_t>(task) * BLOCK;
    const int count = std::min(BLOCK, rows - static_cast<int>(first));
    float *out = logits + first * head_.labels;
    kernels_.dense(head_.output_weight.data(), head_.output_bias.data(), width_, head_.labels, hidden + first * width_,
                   count, 0, head_.labels, out);
    for (int row = 0; mask && row < count; row++)
      if (!mask[first + row]) std::fill_n(out + row * head_.labels, head_.labels, head_.padding);
  });
}

}  // namespace intaglio
