#include <cstring>

#include "harness.h"

using namespace trefoil::test;

namespace {

F32 scalar() { return F32(std::vector<int64_t>{}); }

struct Expected {
  double loss = 0;
  std::vector<double> nll, dlogits;
};

// softmax cross-entropy in double
Expected reference(const std::vector<double>& logits, const I32& targets, const F32& weights, int64_t classes) {
  Expected result;
  const int64_t rows = static_cast<int64_t>(targets.size());
  result.nll.assign(rows, 0);
  result.dlogits.assign(logits.size(), 0);
  for (int64_t t = 0; t < rows; ++t) {
    if (targets[t] < 0) continue;
    const double* row = &logits[t * classes];
    double most = *std::max_element(row, row + classes), total = 0;
    for (int64_t v = 0; v < classes; ++v) total += std::exp(row[v] - most);
    result.nll[t] = std::log(total) + most - row[targets[t]];
    result.loss += weights[t] * result.nll[t];
    for (int64_t v = 0; v < classes; ++v)
      result.dlogits[t * classes + v] = weights[t] * (std::exp(row[v] - most) / total - (v == targets[t] ? 1 : 0));
  }
  return result;
}

I32 random_targets(std::mt19937& generator, int64_t rows, int64_t classes, bool ignore) {
  I32 targets({rows});
  for (int32_t& target : targets.values)
    target = ignore && generator() % 3 == 0 ? -1 : static_cast<int32_t>(generator() % static_cast<uint64_t>(classes));
  return targets;
}

void check_logits(Device& device, int64_t rows, int64_t classes, float spread, bool in_place, uint32_t seed) {
  std::mt19937 generator(seed);
  F32 logits = normal(generator, {rows, classes}, spread), weights = normal(generator, {rows});
  I32 targets = random_targets(generator, rows, classes, true);
  Expected expected = reference(std::vector<double>(logits.values.begin(), logits.values.end()), targets, weights, classes);
  F32 loss = scalar(), nll({rows}), dlogits({rows, classes});
  launch(device, "cross_entropy", {view(logits), view(targets), view(weights)},
         {view(loss), view(nll), in_place ? view(logits) : view(dlogits)});
  // f32 logits are exact inputs here: what is left is exp (2 ulp), the sum of it and the rounding of the results.
  check_close(nll, expected.nll, 1e-6, 1e-6, "nll");
  check_close(in_place ? logits : dlogits, expected.dlogits, 1e-6, 1e-7, "dlogits");
  double magnitude = 0;
  for (int64_t t = 0; t < rows; ++t) magnitude += std::fabs(weights[t]) * (expected.nll[t] + 0.1);  // log of a sum just above 1 keeps 1e-7
  check_close(loss, {expected.loss}, 1e-6, 1e-6 * magnitude, "loss");
}

void check_projection(Device& device, int64_t rows, int64_t width, int64_t classes, bool ignore, int outputs, uint32_t seed) {
  std::mt19937 generator(seed);
  F32 x = normal(generator, {rows, width}), w = normal(generator, {classes, width}, 1 / std::sqrt(float(width))), weights({rows});
  for (int64_t t = 0; t < rows; ++t) weights[t] = 0.5f + static_cast<float>(t % 3);
  I32 targets = random_targets(generator, rows, classes, ignore);
  std::vector<double> logits(rows * classes);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t v = 0; v < classes; ++v)
      for (int64_t d = 0; d < width; ++d) logits[t * classes + v] += double(x[t * width + d]) * w[v * width + d];
  Expected expected = reference(logits, targets, weights, classes);
  std::vector<double> dx_expected(rows * width), dw_expected(classes * width);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t v = 0; v < classes; ++v)
      for (int64_t d = 0; d < width; ++d) {
        dx_expected[t * width + d] += expected.dlogits[t * classes + v] * w[v * width + d];
        dw_expected[v * width + d] += expected.dlogits[t * classes + v] * x[t * width + d];
      }
  F32 loss = scalar(), nll({rows}), dx({rows, width}), dw({classes, width});
  std::fill(dx.values.begin(), dx.values.end(), NAN);
  std::fill(dw.values.begin(), dw.values.end(), NAN);
  launch(device, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)},
         {view(loss), outputs & 1 ? view(nll) : absent(), outputs & 2 ? view(dx) : absent(), outputs & 4 ? view(dw) : absent()});
  // Logits carry the rounding of a product of `width` terms, up to 3e-6 here; everything else follows from them.
  check_close(loss, {expected.loss}, 2e-6, 1e-6, "loss");
  if (outputs & 1) check_close(nll, expected.nll, 4e-6, 1e-6, "nll");
  if (outputs & 2) check_close(dx, dx_expected, 4e-6, 1e-6, "dx");
  if (outputs & 4) check_close(dw, dw_expected, 4e-6, 1e-6, "dw");
}

}  // namespace

TEST(cross_entropy_rows) {
  uint32_t seed = 1;
  for (int64_t classes : {1, 2, 15, 16, 17, 63, 64, 65, 512, 1023, 5003})
    for (int64_t rows : {1, 7, 40}) {
      check_logits(device, rows, classes, 3, false, seed++);
      check_logits(device, rows, classes, 30, true, seed++);
    }
  for (int64_t classes : {33000, 33001}) check_logits(device, 2, classes, 3, classes % 2, seed++);  // more than a block keeps
}

TEST(cross_entropy_extremes) {
  F32 logits({4, 3}, {1000, 0, -1000, -1e30f, -1e30f, -1e30f, -INFINITY, 2, 2, 80, 81, 79}), weights({4}, {1, 1, 1, 1});
  I32 targets({4}, {1, 2, 1, 0});
  F32 loss = scalar(), nll({4});
  launch(device, "cross_entropy", {view(logits), view(targets), view(weights)}, {view(loss), view(nll), absent()});
  check_close(nll, {1000, std::log(3.0), std::log(2.0), 1 + std::log1p(std::exp(-1.0) + std::exp(-2.0))}, 1e-7, 1e-6, "nll");
}

TEST(cross_entropy_keeps_nan) {
  for (int64_t at : {0, 5, 16, 40, 66}) {
    std::mt19937 generator(1);
    F32 logits = normal(generator, {3, 67}), weights({3}, {1, 1, 1}), loss = scalar(), nll({3}), x = normal(generator, {3, 20}), w = normal(generator, {67, 20});
    I32 targets({3}, {4, 8, 9}), ignored({3}, {4, -1, 9});
    logits[67 + at] = NAN;
    x[20 + at % 20] = NAN;
    launch(device, "cross_entropy", {view(logits), view(targets), view(weights)}, {view(loss), view(nll), absent()});
    CHECK(std::isnan(loss[0]) && std::isnan(nll[1]) && !std::isnan(nll[0]) && !std::isnan(nll[2]));
    launch(device, "cross_entropy", {view(logits), view(ignored), view(weights)}, {view(loss), view(nll), absent()});
    CHECK(std::isfinite(loss[0]) && nll[1] == 0);
    launch(device, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)}, {view(loss), view(nll), absent(), absent()});
    CHECK(std::isnan(loss[0]) && std::isnan(nll[1]) && !std::isnan(nll[0]));
  }
}

TEST(cross_entropy_projection) {
  uint32_t seed = 50;
  for (int outputs = 0; outputs < 8; ++outputs) check_projection(device, 70, 33, 97, outputs % 2, outputs, seed++);
  check_projection(device, 1, 1, 1, false, 7, seed++);
  check_projection(device, 1, 64, 300, false, 7, seed++);
  check_projection(device, 13, 7, 513, true, 7, seed++);
  check_projection(device, 2100, 20, 70, true, 7, seed++);   // several chunks
  check_projection(device, 2100, 20, 70, false, 7, seed++);
  check_projection(device, 40, 24, 9001, true, 7, seed++);   // dx cuts its long k
  check_projection(device, 300, 40, 701, false, 7, seed++);
}

TEST(cross_entropy_all_ignored) {
  F32 x({2, 3}, {1, 2, 3, 4, 5, 6}), w({4, 3}), weights({2}, {1, 1}), loss = scalar(), nll({2}, {9, 9}), dx({2, 3}), dw({4, 3});
  I32 targets({2}, {-1, -1});
  for (F32* array : {&loss, &dx, &dw}) std::fill(array->values.begin(), array->values.end(), NAN);
  launch(device, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)}, {view(loss), view(nll), view(dx), view(dw)});
  CHECK(loss[0] == 0 && nll[0] == 0 && nll[1] == 0);
  for (float value : dx.values) CHECK(value == 0);
  for (float value : dw.values) CHECK(value == 0);
}

TEST(cross_entropy_thread_independent) {
  check_thread_independent(device, [](Device& d) {
    std::mt19937 generator(9);
    std::vector<F32> results;
    for (int64_t classes : {700, 9000}) {
      const int64_t rows = 600, width = 40;
      F32 x = normal(generator, {rows, width}), w = normal(generator, {classes, width}), weights = normal(generator, {rows});
      I32 targets = random_targets(generator, rows, classes, true);
      F32 loss = scalar(), nll({rows}), dx({rows, width}), dw({classes, width});
      launch(d, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)}, {view(loss), view(nll), view(dx), view(dw)});
      for (F32* array : {&loss, &nll, &dx, &dw}) results.push_back(*array);
    }
    return results;
  });
}

TEST(cross_entropy_rejects_bad_targets) {
  F32 logits({3, 5}), weights({3}), loss = scalar(), x({3, 2}), w({5, 2});
  for (int32_t wrong : {-2, 5}) {
    I32 targets({3}, {0, -1, wrong});
    for (int projected = 0; projected < 2; ++projected) {
      TrefoilStatus status =
          projected ? launch_error(device, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)},
                                   {view(loss), absent(), absent(), absent()})
                    : launch_error(device, "cross_entropy", {view(logits), view(targets), view(weights)}, {view(loss), absent(), absent()});
      CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(status.message, "targets[2]"));
    }
  }
}

TEST(cross_entropy_without_classes) {
  F32 logits({3, 0}), x({3, 2}, {1, 2, 3, 4, 5, 6}), w({0, 2}), weights({3}, {1, 1, 1}), loss = scalar(), nll({3}), dx({3, 2});
  for (int32_t target : {-1, 0}) {
    I32 targets({3}, {-1, target, -1});
    for (int projected = 0; projected < 2; ++projected) {
      for (F32* array : {&loss, &nll, &dx}) std::fill(array->values.begin(), array->values.end(), NAN);
      TrefoilStatus status = projected ? launch_error(device, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)},
                                                      {view(loss), view(nll), view(dx), absent()})
                                       : launch_error(device, "cross_entropy", {view(logits), view(targets), view(weights)}, {view(loss), view(nll), absent()});
      CHECK(status.code == (target < 0 ? TREFOIL_OK : TREFOIL_INDEX_OUT_OF_RANGE));
      if (target >= 0) continue;
      CHECK(loss[0] == 0);
      for (float value : nll.values) CHECK(value == 0);
      if (projected)
        for (float value : dx.values) CHECK(value == 0);
    }
  }
}
