#include "runtime/signature.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace trefoil::runtime {

namespace {

// stored: f32, and bf16 where a backend stores activations so (†); loaded: f32 or bf16 on every backend.
enum class Type { f32, i32, stored, loaded, number, element, any };

// Shapes: one letter is one dimension or, before "..", the product of as many as there are. "[R.. 2*D]" is a list, "R*D" a count of
// elements, of whatever shape.
enum class Need { required, optional, left_out };  // optional: may be absent; left_out: also from the end of the list
struct Operand {
  const char* name;
  Type type;
  const char* shape;
  Need need = Need::required;
};
constexpr Need kOptional = Need::optional, kLeftOut = Need::left_out;

constexpr int64_t kUnknown = -1;
struct Sizes {
  int64_t of[128];
  int64_t& operator[](char letter) { return of[static_cast<size_t>(letter)]; }
  int64_t operator[](char letter) const { return of[static_cast<size_t>(letter)]; }
};

using Further = std::string (*)(const Sizes& sizes, const TrefoilLaunch& launch);

struct Signature {
  std::vector<Operand> inputs, outputs;
  // One letter and a space for each: a capital is a size, which must be a whole number, "." is anything.
  const char* attributes = "";
  Further further = nullptr;
};

bool present(const TrefoilView* views, int32_t count, int32_t index) { return index < count && views[index].data; }

// Not more than 2^48 elements are in any view, but a product of sizes of several may be anything.
bool multiply(int64_t& product, int64_t factor) { return !__builtin_mul_overflow(product, factor, &product); }

int64_t elements(const TrefoilView& view) {
  int64_t count = 1;
  for (int32_t i = 0; i < view.rank; ++i) count *= view.shape[i];
  return count;
}

std::string describe(const TrefoilView& view) {
  std::string text = std::string(dtype_name(view.dtype)) + " [";
  for (int32_t i = 0; i < view.rank; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

const char* type_name(Type type, bool stores_bf16) {
  switch (type) {
    case Type::f32: return "f32";
    case Type::i32: return "i32";
    case Type::stored: return stores_bf16 ? "f32 or bf16" : "f32";
    case Type::loaded: return "f32 or bf16";
    case Type::number: return "f32 or i32";
    case Type::element: return "f32, i32 or bf16";
    case Type::any: return "";
  }
  return "";
}

bool admits(Type type, int32_t dtype, bool stores_bf16) {
  switch (type) {
    case Type::f32: return dtype == TREFOIL_F32;
    case Type::i32: return dtype == TREFOIL_I32;
    case Type::stored: return dtype == TREFOIL_F32 || (stores_bf16 && dtype == TREFOIL_BF16);
    case Type::loaded: return dtype == TREFOIL_F32 || dtype == TREFOIL_BF16;
    case Type::number: return dtype == TREFOIL_F32 || dtype == TREFOIL_I32;
    case Type::element: return dtype != TREFOIL_U8;
    case Type::any: return true;
  }
  return false;
}

// One dimension of a list, "D", "2*D", "D+1" or "D/2": equal to `size`, which tells the letter if it is not known.
bool matches_dimension(std::string_view term, int64_t size, Sizes& sizes) {
  int64_t factor = 1, divisor = 1, more = 0;
  if (term.size() == 3 && term[1] == '*') factor = term[0] - '0';
  if (term.size() == 3 && term[1] == '/') divisor = term[2] - '0';
  if (term.size() == 3 && term[1] == '+') more = term[2] - '0';
  int64_t& known = sizes[factor == 1 ? term[0] : term[2]];
  if (known == kUnknown && divisor > 1) return true;  // the next round will know
  if (known == kUnknown && size >= more && (size - more) % factor == 0) known = (size - more) / factor;
  return known != kUnknown && known / divisor * factor + more == size;
}

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(by, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

bool matches_list(std::string_view list, const TrefoilView& view, Sizes& sizes) {
  std::vector<std::string_view> terms = split(list, ' ');
  const int32_t fixed = static_cast<int32_t>(terms.size());
  const bool open = list.find("..") != list.npos;
  if (open ? view.rank < fixed - 1 : view.rank != fixed) return false;
  int32_t axis = 0;
  for (std::string_view term : terms) {
    if (!term.ends_with("..")) {
      if (!matches_dimension(term, view.shape[axis++], sizes)) return false;
      continue;
    }
    int64_t product = 1;
    for (const int32_t end = axis + view.rank - (fixed - 1); axis < end; ++axis) product *= view.shape[axis];
    if (!matches_dimension(term.substr(0, 1), product, sizes)) return false;
  }
  return true;
}

// A letter that is not known yet becomes what makes the count right.
bool matches_count(std::string_view product, const TrefoilView& view, Sizes& sizes) {
  int64_t count = 1, more = 0;
  char unknown = 0;
  if (size_t plus = product.find('+'); plus != product.npos) {
    more = product[plus + 1] - '0';
    product = product.substr(0, plus);
  }
  for (std::string_view term : split(product, '*')) {
    const bool digit = term[0] >= '0' && term[0] <= '9';
    int64_t factor = digit ? term[0] - '0' : sizes[term[0]];
    if (factor == kUnknown)
      unknown = term[0];
    else if (!multiply(count, factor))
      return false;
  }
  const int64_t wanted = elements(view) - more;
  if (!unknown) return count == wanted;
  sizes[unknown] = count == 0 ? 0 : wanted / count;
  return wanted >= 0 && count * sizes[unknown] == wanted;
}

// In rounds: lists tell sizes, then counts use them.
std::string check_operands(const std::vector<Operand>& operands, const TrefoilView* views, int32_t count, bool lists, bool stores_bf16, Sizes& sizes) {
  for (int32_t i = 0; i < static_cast<int32_t>(operands.size()); ++i) {
    const Operand& operand = operands[static_cast<size_t>(i)];
    if (!present(views, count, i)) {
      if (operand.need == Need::required) return std::string(operand.name) + " is missing";
      continue;
    }
    const TrefoilView& view = views[i];
    const std::string_view shape = operand.shape;
    const bool list = shape.starts_with('[');
    bool fits = admits(operand.type, view.dtype, stores_bf16);
    if (fits && list == lists && !shape.empty())
      fits = list ? matches_list(shape.substr(1, shape.size() - 2), view, sizes) : matches_count(shape, view, sizes);
    if (fits) continue;
    std::string text = std::string(operand.name) + " is " + describe(view) + ", not " + type_name(operand.type, stores_bf16);
    text += list ? " " + std::string(shape) : shape.empty() ? "" : " of " + std::string(shape) + " elements";
    std::string known;
    for (char letter : shape)
      if (std::isalpha(letter) && sizes[letter] != kUnknown && known.find(letter) == known.npos)
        known += std::string(known.empty() ? " with " : ", ") + letter + " = " + std::to_string(sizes[letter]);
    return text + known;
  }
  return {};
}

std::string check_counts(const char* what, const std::vector<Operand>& operands, int32_t count) {
  const int32_t most = static_cast<int32_t>(operands.size());
  int32_t least = most;
  while (least > 0 && operands[static_cast<size_t>(least) - 1].need == Need::left_out) --least;
  if (count >= least && count <= most) return {};
  return "it has " + std::to_string(count) + " " + what + ", not " + std::to_string(most);
}

std::string check_attributes(const char* letters, const TrefoilLaunch& launch, Sizes& sizes) {
  const int32_t wanted = static_cast<int32_t>(std::strlen(letters));
  if (launch.attribute_count != wanted)
    return "it has " + std::to_string(launch.attribute_count) + " attributes, not " + std::to_string(wanted);
  for (int32_t i = 0; i < wanted; ++i) {
    if (letters[i] == '.') continue;
    const double value = launch.attributes[i];
    if (!(value >= 0 && value <= 1125899906842624.0) || value != std::trunc(value))
      return "attribute " + std::to_string(i) + " is " + std::to_string(value) + ", not a size";
    sizes[letters[i]] = static_cast<int64_t>(value);
  }
  return {};
}

// What a line of the table cannot say.

std::string matmul_shapes(const Sizes&, const TrefoilLaunch& launch) {
  const TrefoilView &a = launch.inputs[0], &b = launch.inputs[1];
  auto refuse = [&](const std::string& why) { return why + ": a is " + describe(a) + " and b " + describe(b); };
  if (a.rank < 2 || b.rank < 2) return refuse("both operands need two dimensions");
  const bool transpose_a = launch.attributes[0] != 0, transpose_b = launch.attributes[1] != 0;
  const int64_t m = a.shape[a.rank - (transpose_a ? 1 : 2)], k = a.shape[a.rank - (transpose_a ? 2 : 1)];
  const int64_t n = b.shape[b.rank - (transpose_b ? 2 : 1)], kb = b.shape[b.rank - (transpose_b ? 1 : 2)];
  if (k != kb) return refuse("a has k = " + std::to_string(k) + " and b has k = " + std::to_string(kb) + "; they must be equal");
  const bool shared = b.rank == 2 && a.rank > 2;
  if (!shared && (a.rank != b.rank || !std::equal(a.shape, a.shape + a.rank - 2, b.shape))) return refuse("leading dimensions differ");
  int64_t matrix = m, total = 1;
  if (!multiply(matrix, n)) return refuse("the product is too large");
  for (int32_t i = 0; i + 2 < a.rank; ++i) total *= a.shape[i];
  if (!multiply(total, matrix)) return refuse("the product is too large");
  for (int32_t i = 0; i < launch.output_count; ++i)
    if (launch.outputs[i].data && elements(launch.outputs[i]) != total) return refuse("a result is " + describe(launch.outputs[i]));
  if (present(launch.inputs, launch.input_count, 2) && elements(launch.inputs[2]) != n) return refuse("bias is " + describe(launch.inputs[2]));
  if (present(launch.inputs, launch.input_count, 3) && elements(launch.inputs[3]) != total && elements(launch.inputs[3]) != matrix)
    return refuse("residual is " + describe(launch.inputs[3]));
  if (!(launch.attributes[3] >= 0 && launch.attributes[3] <= 3)) return "there is no activation " + std::to_string(launch.attributes[3]);
  return {};
}

std::string grouped_shapes(const Sizes& sizes, const TrefoilLaunch& launch) {
  const bool transpose = launch.attributes[0] != 0;
  if (sizes['P'] != (transpose ? sizes['N'] : sizes['K']) || sizes['Q'] != (transpose ? sizes['K'] : sizes['N']))
    return "w is " + describe(launch.inputs[1]) + " for x " + describe(launch.inputs[0]) + " and y " + describe(launch.outputs[0]);
  if (!present(launch.inputs, launch.input_count, 3) && sizes['X'] != sizes['R'])
    return "x has " + std::to_string(sizes['X']) + " rows and y " + std::to_string(sizes['R']) + "; without row_index they must be equal";
  return {};
}

std::string attention_heads(const Sizes& sizes, const TrefoilLaunch&) {
  if (sizes['G'] == 0 || sizes['H'] % sizes['G'] != 0)
    return std::to_string(sizes['H']) + " heads of queries cannot share " + std::to_string(sizes['G']) + " of keys";
  return {};
}

std::string segments_of_keys(const Sizes& sizes, const TrefoilLaunch& launch, int32_t segments) {
  if (present(launch.inputs, launch.input_count, segments) && sizes['S'] != sizes['L'])
    return "segments need as many queries as keys, not " + std::to_string(sizes['S']) + " and " + std::to_string(sizes['L']);
  return attention_heads(sizes, launch);
}

std::string whole_groups(const Sizes& sizes, const TrefoilLaunch&) {
  if (sizes['G'] == 0 || sizes['C'] % sizes['G'] != 0)
    return std::to_string(sizes['C']) + " channels cannot be cut into " + std::to_string(sizes['G']) + " groups";
  return {};
}

std::string windows(const Sizes& sizes, const TrefoilLaunch&) {
  // The last row and column that a window reads, counted from the padding: below 2^30, as kernels add to them.
  constexpr int64_t most = int64_t{1} << 30;
  int64_t bottom = sizes['s'], right = sizes['s'];
  const bool fits = sizes['s'] > 0 && sizes['p'] <= most && sizes['I'] <= most && sizes['J'] <= most && multiply(bottom, std::max<int64_t>(sizes['U'], 1)) &&
                    multiply(right, std::max<int64_t>(sizes['V'], 1)) && bottom <= most && right <= most;
  if (!fits) return "stride " + std::to_string(sizes['s']) + " and padding " + std::to_string(sizes['p']) + " are out of range for these shapes";
  return {};
}

// Of the whole batch, [4], or of each row, [B, 4].
std::string state_of_rows(const Sizes& sizes, const TrefoilView& state) {
  const bool whole = state.rank == 1 && state.shape[0] == 4;
  const bool rows = state.rank == 2 && state.shape[0] == sizes['B'] && state.shape[1] == 4;
  return whole || rows ? "" : "state is " + describe(state) + ", not i32 [4] or [" + std::to_string(sizes['B']) + ", 4]";
}

std::string masked_step(const Sizes& sizes, const TrefoilLaunch& launch) {
  if (present(launch.inputs, launch.input_count, 6)) {
    const TrefoilView& priority = launch.inputs[6];
    const bool rows = priority.rank == 2 && priority.shape[0] == sizes['B'] && priority.shape[1] == sizes['N'];
    if (!rows && !(priority.rank == 1 && priority.shape[0] == sizes['N'])) return "priority is " + describe(priority) + ", not [N] or [B, N]";
  }
  return state_of_rows(sizes, launch.inputs[5]);
}

std::string cached_heads(const Sizes& sizes, const TrefoilLaunch& launch) {
  if (launch.inputs[4].dtype != launch.inputs[5].dtype) return "keys and values differ in dtype";
  const int64_t size = sizes['h'], heads = size > 0 ? sizes['W'] / size - 2 * sizes['G'] : 0;
  if (size > 0 && (heads < 0 || (heads + 2 * sizes['G']) * size != sizes['W']))
    return "rows of " + std::to_string(sizes['W']) + " do not hold whole heads of " + std::to_string(size);
  int64_t count = sizes['B'] * sizes['S'];
  if (present(launch.outputs, launch.output_count, 0) && (!multiply(count, heads * size) || elements(launch.outputs[0]) != count))
    return "query is " + describe(launch.outputs[0]) + " for " + std::to_string(heads) + " heads";
  return {};
}

std::string permuted(const Sizes&, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  bool fits = x.dtype == y.dtype && x.rank == y.rank && launch.attribute_count == x.rank;
  bool taken[TREFOIL_MAX_RANK] = {};
  for (int32_t i = 0; fits && i < x.rank; ++i) {
    const double axis = launch.attributes[i];
    fits = axis >= 0 && axis < x.rank && axis == std::trunc(axis) && !taken[static_cast<int32_t>(axis)];
    if (!fits) break;
    taken[static_cast<int32_t>(axis)] = true;
    fits = y.shape[i] == x.shape[static_cast<int32_t>(axis)];
  }
  return fits ? "" : "y is " + describe(y) + ", which is no such permutation of x " + describe(x);
}

std::string along_axis(const Sizes&, const TrefoilLaunch& launch) {
  const TrefoilView& y = launch.outputs[0];
  for (int32_t i = 0; i < launch.input_count; ++i)
    if (launch.inputs[i].rank != y.rank || launch.inputs[i].dtype != y.dtype)
      return "input " + std::to_string(i) + " is " + describe(launch.inputs[i]) + " for a result " + describe(y);
  return {};
}

std::string cache_rows(const Sizes&, const TrefoilLaunch& launch) {
  const TrefoilView &cache = launch.inputs[0], &rows = launch.inputs[1];
  bool fits = cache.rank >= 2 && cache.rank == rows.rank && cache.shape[0] == rows.shape[0] &&
              std::equal(cache.shape + 2, cache.shape + cache.rank, rows.shape + 2) &&
              (rows.dtype == cache.dtype || rows.dtype == TREFOIL_F32);
  return fits ? "" : "rows " + describe(rows) + " do not fit into a cache " + describe(cache);
}

const std::map<std::string_view, Signature>& signatures() {
  constexpr Type f = Type::f32, i = Type::i32, t = Type::stored, s = Type::loaded, any = Type::any;
  static const std::map<std::string_view, Signature>& all = *new std::map<std::string_view, Signature>{
      {"reduce", {{{"x", f, "O*N*I"}}, {{"y", f, "O*I"}}, ".ONI"}},
      {"argmax", {{{"x", f, "[R.. N]"}}, {{"y", i, "R"}}}},
      {"copy", {{{"x", any, "N"}}, {{"y", any, "N", kOptional}}}},
      {"slice", {{{"x", any, ""}}, {{"y", any, ""}}, "..", along_axis}},
      {"pad", {{{"x", any, ""}}, {{"y", any, ""}}, "..", along_axis}},
      {"update_rows_", {{{"cache", s, ""}, {"rows", s, ""}, {"position", i, "B"}}, {{"cache", s, "", kOptional}}, "", cache_rows}},
      {"gather_rows", {{{"table", s, "[V D..]"}, {"index", i, "N"}}, {{"y", t, "N*D", kOptional}}}},
      {"scatter_add_rows", {{{"rows", t, "N*D"}, {"index", i, "N"}}, {{"y", t, "[V D..]"}}}},
      {"gather_last", {{{"x", f, "[R.. V]"}, {"index", i, "R*K"}}, {{"y", f, "[R.. K]"}}}},
      {"scatter_last", {{{"values", f, "R*K"}, {"index", i, "R*K"}}, {{"y", f, "[R.. V]"}}}},
      {"iota", {{}, {{"y", Type::number, "", kOptional}}}},
      {"matmul", {{{"a", s, ""}, {"b", s, ""}, {"bias", f, "", kLeftOut}, {"residual", t, "", kLeftOut}},
                  {{"c", t, ""}, {"preactivation", f, "", kLeftOut}}, "....", matmul_shapes}},
      {"grouped_matmul", {{{"x", s, "[X K]"}, {"w", s, "[E P Q]"}, {"offsets", i, "E+1"}, {"row_index", i, "R", kLeftOut}},
                          {{"y", t, "[R N]"}}, ".", grouped_shapes}},
      {"grouped_matmul_weight_grad", {{{"a", s, "[A M]"}, {"b", s, "[B N]"}, {"offsets", i, "E+1"}, {"a_index", i, "[R]", kLeftOut},
                                       {"b_index", i, "[R]", kLeftOut}}, {{"w", t, "[E M N]"}}}},
      {"cross_entropy", {{{"logits", f, "[T.. V]"}, {"targets", i, "T"}, {"weights", f, "T"}},
                         {{"loss", f, "1", kOptional}, {"nll", f, "T", kOptional}, {"dlogits", f, "T*V", kOptional}}}},
      {"linear_cross_entropy", {{{"x", s, "[T D]"}, {"w", s, "[V D]"}, {"targets", i, "T"}, {"weights", f, "T"}},
                                {{"loss", f, "1", kOptional}, {"nll", f, "T", kOptional}, {"dx", t, "T*D", kOptional}, {"dw", f, "V*D", kOptional}}}},
      {"softmax", {{{"x", f, "[R.. N]"}}, {{"y", f, "R*N"}}}},
      {"softmax_grad", {{{"y", f, "[R.. N]"}, {"dy", f, "R*N"}}, {{"dx", f, "R*N"}}}},
      {"log_softmax", {{{"x", f, "[R.. N]"}}, {{"y", f, "R*N"}}}},
      {"log_softmax_grad", {{{"y", f, "[R.. N]"}, {"dy", f, "R*N"}}, {{"dx", f, "R*N"}}}},
      {"logsumexp", {{{"x", f, "[R.. N]"}}, {{"y", f, "R"}}}},
      {"rms_norm", {{{"x", t, "[R.. D]"}, {"weight", f, "D"}}, {{"y", t, "R*D", kOptional}, {"rstd", f, "R", kLeftOut}}, "."}},
      {"rms_norm_grad", {{{"dy", t, "R*D"}, {"x", t, "[R.. D]"}, {"weight", f, "D"}, {"rstd", f, "R"}},
                         {{"dx", t, "R*D", kOptional}, {"dweight", f, "D", kOptional}}}},
      {"layer_norm", {{{"x", t, "[R.. D]"}, {"weight", f, "D", kOptional}, {"bias", f, "D", kOptional}},
                      {{"y", t, "R*D", kOptional}, {"mean", f, "R", kOptional}, {"rstd", f, "R", kOptional}}, "."}},
      {"layer_norm_grad", {{{"dy", t, "R*D"}, {"x", t, "[R.. D]"}, {"weight", f, "D", kOptional}, {"mean", f, "R"}, {"rstd", f, "R"}},
                           {{"dx", t, "R*D", kOptional}, {"dweight", f, "D", kOptional}, {"dbias", f, "D", kOptional}}}},
      {"rope", {{{"x", t, "[B S H h]"}, {"cos", f, "[P h/2]"}, {"sin", f, "[P h/2]"}, {"positions", i, "B*S"}}, {{"y", t, "B*S*H*h"}}, ".."}},
      {"rope_to_cache_", {{{"rows", t, "[B S W]"}, {"cos", f, "[P h/2]"}, {"sin", f, "[P h/2]"}, {"positions", i, "B*S"},
                           {"keys", s, "[B C G h]"}, {"values", s, "[B C G h]"}, {"start", i, "B"}},
                          {{"query", t, "", kOptional}, {"keys", s, "B*C*G*h", kOptional}, {"values", s, "B*C*G*h", kOptional}}, "", cached_heads}},
      {"conv2d", {{{"x", t, "[N H W C]"}, {"w", t, "[O I J C]"}, {"bias", f, "O", kLeftOut}}, {{"y", t, "[N U V O]"}}, "sp", windows}},
      {"conv2d_input_grad", {{{"dy", t, "[N U V O]"}, {"w", t, "[O I J C]"}}, {{"dx", t, "[N H W C]"}}, "sp", windows}},
      {"conv2d_weight_grad", {{{"dy", t, "[N U V O]"}, {"x", t, "[N H W C]"}}, {{"dw", f, "[O I J C]"}}, "sp", windows}},
      {"upsample_nearest2", {{{"x", t, "[N H W C]"}}, {{"y", t, "[N 2*H 2*W C]"}}, "."}},
      {"sum_pool2", {{{"x", t, "[N 2*H 2*W C]"}}, {{"y", t, "[N H W C]"}}, "."}},
      {"group_norm", {{{"x", f, "[N P.. C]"}, {"weight", f, "C"}, {"bias", f, "C"}},
                      {{"y", t, "N*P*C", kOptional}, {"mean", f, "N*G", kOptional}, {"rstd", f, "N*G", kOptional}}, "G.", whole_groups}},
      {"group_norm_grad", {{{"dy", t, "N*P*C"}, {"x", f, "[N P.. C]"}, {"weight", f, "C"}, {"mean", f, "N*G"}, {"rstd", f, "N*G"}},
                           {{"dx", f, "N*P*C", kOptional}, {"dweight", f, "C", kOptional}, {"dbias", f, "C", kOptional}}, "G", whole_groups}},
      {"vq_lookup", {{{"x", f, "[R D]"}, {"codebook", f, "[V D]"}}, {{"index", i, "R", kOptional}, {"distance", f, "R", kOptional}}}},
      {"masked_diffusion_step", {{{"logits", f, "[B N V]"}, {"unconditional", f, "B*N*V", kOptional}, {"tokens", i, "B*N"}, {"remaining", i, "B"},
                                  {"controls", f, "3"}, {"state", i, ""}, {"priority", f, "", kLeftOut}},
                                 {{"next", i, "B*N", kOptional}, {"sampled", i, "B*N", kOptional}, {"confidence", f, "B*N", kOptional}},
                                 ".....", masked_step}},
      {"attention", {{{"q", t, "[B S H h]"}, {"k", s, "[B L G h]"}, {"v", s, "[B L G h]"}, {"key_lengths", i, "B", kOptional}, {"segments", i, "B*L", kOptional}},
                     {{"out", t, "B*S*H*h"}, {"lse", f, "B*H*S", kOptional}}, "..",
                     [](const Sizes& sizes, const TrefoilLaunch& launch) { return segments_of_keys(sizes, launch, 4); }}},
      {"attention_grad", {{{"dout", t, "B*S*H*h"}, {"q", t, "[B S H h]"}, {"k", s, "[B L G h]"}, {"v", s, "[B L G h]"}, {"out", t, "B*S*H*h"},
                           {"lse", f, "B*H*S"}, {"key_lengths", i, "B", kOptional}, {"segments", i, "B*L", kOptional}},
                          {{"dq", t, "B*S*H*h", kOptional}, {"dk", t, "B*L*G*h", kOptional}, {"dv", t, "B*L*G*h", kOptional}}, "..",
                          [](const Sizes& sizes, const TrefoilLaunch& launch) { return segments_of_keys(sizes, launch, 7); }}},
      {"swiglu", {{{"x", t, "[R.. 2*F]"}}, {{"y", t, "[R.. F]"}}}},
      {"swiglu_grad", {{{"x", t, "[R.. 2*F]"}, {"dy", t, "[R.. F]"}}, {{"dx", t, "2*R*F"}}}},
      {"moe_gate", {{{"logits", f, "[T E]"}}, {{"weights", f, "[T K]", kOptional}, {"indices", i, "[T K]", kOptional}, {"probabilities", f, "T*E", kOptional}}, "."}},
      {"moe_gate_grad", {{{"dweights", f, "T*K"}, {"weights", f, "[T K]"}, {"indices", i, "T*K"}, {"probabilities", f, "[T E]"}},
                         {{"dlogits", f, "[T E]"}}, "."}},
      {"moe_sort", {{{"indices", i, "[T.. K]"}},
                    {{"permutation", i, "T*K", kOptional}, {"token", i, "T*K", kOptional}, {"offsets", i, "E+1", kOptional}, {"inverse", i, "T*K", kOptional}}}},
      {"moe_combine", {{{"y", t, "[R D]"}, {"inverse", i, "T*K"}, {"weights", f, "T*K", kOptional}, {"permutation", i, "T*K", kLeftOut}},
                       {{"out", t, "[T D]"}}, "K"}},
      {"moe_combine_grad", {{{"dout", t, "[T D]"}, {"y", t, "[R D]"}, {"permutation", i, "R"}, {"weights", f, "[T K]"}},
                            {{"dy", t, "R*D", kOptional}, {"dweights", f, "T*K", kOptional}}}},
      {"random_uniform", {{{"state", i, "4"}}, {{"y", f, ""}}, "."}},
      {"random_normal", {{{"state", i, "4"}}, {{"y", f, ""}}, "."}},
      {"random_advance_", {{{"state", i, "4*B"}}, {{"state", i, "4*B", kOptional}}}},
      {"sample_tokens", {{{"logits", f, "[B V]"}, {"state", i, ""}}, {{"token", i, "B", kOptional}, {"log_probability", f, "B", kOptional}}, "....",
                         [](const Sizes& sizes, const TrefoilLaunch& launch) { return state_of_rows(sizes, launch.inputs[1]); }}},
  };
  return all;
}

// Ops of any number of operands.

std::string every(const char* what, const TrefoilView* views, int32_t count, Type type, bool may_be_absent) {
  for (int32_t i = 0; i < count; ++i) {
    if (!views[i].data && may_be_absent) continue;
    std::string name = what + std::string(" ") + std::to_string(i);
    if (!views[i].data) return name + " is missing";
    if (!admits(type, views[i].dtype, false)) return name + " is " + describe(views[i]) + ", not " + type_name(type, false);
  }
  return {};
}

std::string variadic(const std::string& op, const TrefoilLaunch& launch) {
  if (op == "elementwise") {
    std::string why = every("input", launch.inputs, launch.input_count, Type::element, false);
    return why.empty() ? every("output", launch.outputs, launch.output_count, Type::element, true) : why;
  }
  if (op == "sum_squares") {
    if (launch.output_count != 1 || !launch.outputs[0].data || launch.outputs[0].dtype != TREFOIL_F32 || elements(launch.outputs[0]) != 1)
      return "it has one result, an f32 scalar";
    return every("input", launch.inputs, launch.input_count, Type::f32, false);
  }
  if (op == "concat") {
    if (launch.output_count != 1 || !launch.outputs[0].data) return "it has one result";
    if (launch.attribute_count != 1) return "it has one attribute, the axis";
    std::string why = every("input", launch.inputs, launch.input_count, Type::any, false);
    if (why.empty()) why = along_axis({}, launch);
    if (!why.empty()) return why;
    const TrefoilView& y = launch.outputs[0];
    const double axis = launch.attributes[0];
    if (!(axis >= 0 && axis < y.rank)) return "axis " + std::to_string(axis) + " is outside [0, " + std::to_string(y.rank) + ")";
    int64_t length = 0;  // of at most 2^24 inputs of 2^48 bytes
    for (int32_t i = 0; i < launch.input_count; ++i) length += launch.inputs[i].shape[static_cast<int32_t>(axis)];
    if (length != y.shape[static_cast<int32_t>(axis)]) return "the inputs have " + std::to_string(length) + " elements along axis " + std::to_string(static_cast<int32_t>(axis)) + ", the result is " + describe(y);
    return {};
  }
  if (op == "transpose") {
    if (launch.input_count != 1 || launch.output_count != 1 || !launch.inputs[0].data || !launch.outputs[0].data) return "it has one operand and one result";
    return permuted({}, launch);
  }
  return {};
}

// hyper, then a parameter, its gradient and two moments for each weight decay; then perhaps rounded copies. The results are the
// operands: kernels do not look at them.
std::string adamw(const TrefoilLaunch& launch, bool stores_bf16) {
  const int32_t tensors = launch.attribute_count - 3, operands = 1 + 4 * tensors;
  if (tensors < 0) return "it has no betas and epsilon";
  if (launch.input_count != operands && !(stores_bf16 && launch.input_count == operands + tensors))
    return "it has " + std::to_string(launch.input_count) + " inputs, not " + std::to_string(operands);
  if (std::string why = every("input", launch.inputs, operands, Type::f32, false); !why.empty()) return why;
  if (elements(launch.inputs[0]) != 3) return "hyper is " + describe(launch.inputs[0]) + ", not f32 [3]";
  for (int32_t tensor = 0; tensor < tensors; ++tensor) {
    const TrefoilView *of = launch.inputs + 1 + 4 * tensor, &parameter = of[0];
    for (int32_t k = 1; k < 4; ++k)
      if (elements(of[k]) != elements(parameter)) return "parameter " + std::to_string(tensor) + " is " + describe(parameter) + ", its gradient or moment " + describe(of[k]);
    if (launch.input_count == operands) continue;
    const TrefoilView& copy = launch.inputs[operands + tensor];
    if (copy.data && (copy.dtype != TREFOIL_BF16 || elements(copy) != elements(parameter)))
      return "parameter " + std::to_string(tensor) + " is " + describe(parameter) + ", its copy " + describe(copy);
  }
  return {};
}

}  // namespace

std::string misfit(const std::string& op, const TrefoilLaunch& launch, bool stores_bf16) {
  if (op == "adamw_") return adamw(launch, stores_bf16);
  auto found = signatures().find(op);
  if (found == signatures().end()) return variadic(op, launch);
  const Signature& signature = found->second;
  Sizes sizes;
  std::fill(std::begin(sizes.of), std::end(sizes.of), kUnknown);
  std::string why = check_counts("inputs", signature.inputs, launch.input_count);
  if (why.empty()) why = check_counts("outputs", signature.outputs, launch.output_count);
  if (why.empty()) why = check_attributes(signature.attributes, launch, sizes);
  for (bool lists : {true, true, false}) {
    if (why.empty()) why = check_operands(signature.inputs, launch.inputs, launch.input_count, lists, stores_bf16, sizes);
    if (why.empty()) why = check_operands(signature.outputs, launch.outputs, launch.output_count, lists, stores_bf16, sizes);
  }
  if (why.empty() && signature.further) why = signature.further(sizes, launch);
  return why;
}

}  // namespace trefoil::runtime
