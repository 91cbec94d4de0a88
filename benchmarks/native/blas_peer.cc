// sgemm of a BLAS library that is opened at run time: blas_peer openblas|blis|onednn [library path].
// First line out: {"version": ...} or {"missing": why}. Then one request a line and one JSON object a line back:
//   define M K N TRANSPOSE_A TRANSPOSE_B THREADS   {"maximumError": over some elements}
//   run REPETITIONS                                {"seconds": per product}
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

using Gemm = std::function<void(bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c)>;

struct Library {
  std::string version;
  Gemm gemm;
  std::function<void(int)> set_threads;
};

template <class F>
F* symbol(void* library, const char* name) {
  return reinterpret_cast<F*>(dlsym(library, name));
}

void* open_first(const std::vector<const char*>& names, std::string& reason) {
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return library;
    const char* message = dlerror();
    if (reason.empty() && message) reason = message;
  }
  return nullptr;
}

constexpr int row_major = 101, no_transpose = 111, transpose = 112;
using CblasSgemm = void(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);

Gemm cblas(void* library) {
  auto sgemm = symbol<CblasSgemm>(library, "cblas_sgemm");
  if (!sgemm) return nullptr;
  return [sgemm](bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) {
    sgemm(row_major, ta ? transpose : no_transpose, tb ? transpose : no_transpose, m, n, k, 1, a, ta ? m : k, b, tb ? k : n,
          0, c, n);
  };
}

Library openblas(void* library) {
  Library found{"unknown", cblas(library), nullptr};
  auto config = symbol<char*()>(library, "openblas_get_config");
  auto core = symbol<char*()>(library, "openblas_get_corename");
  if (config) found.version = config();
  if (core && found.version.find(core()) == std::string::npos) found.version += std::string(" ") + core();
  if (auto set = symbol<void(int)>(library, "openblas_set_num_threads")) found.set_threads = set;
  return found;
}

Library blis(void* library) {
  Library found{"unknown", cblas(library), nullptr};
  auto version = symbol<const char*()>(library, "bli_info_get_version_str");
  if (version) found.version = version();
  if (auto set = symbol<void(long)>(library, "bli_thread_set_num_threads")) found.set_threads = [set](int n) { set(n); };
  return found;
}

Library onednn(void* library) {
  struct Version {
    int major, minor, patch;
  };
  Library found{"unknown", nullptr, nullptr};
  if (auto version = symbol<const Version*()>(library, "dnnl_version")) {
    const Version* v = version();
    found.version = std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  }
  // Row-major, unlike the Fortran interface. Sizes are 64-bit.
  using Sgemm = int(char, char, long, long, long, float, const float*, long, const float*, long, float, float*, long);
  if (auto sgemm = symbol<Sgemm>(library, "dnnl_sgemm")) {
    found.gemm = [sgemm](bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) {
      sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, ta ? m : k, b, tb ? k : n, 0, c, n);
    };
  }
  // Its threads are OpenMP's.
  if (auto set = symbol<void(int)>(RTLD_DEFAULT, "omp_set_num_threads")) found.set_threads = set;
  return found;
}

std::string json(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) quoted += c;
  }
  return quoted + "\"";
}

void answer(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

struct Product {
  bool ta = false, tb = false;
  int m = 0, n = 0, k = 0;
  std::vector<float> a, b, c;

  void fill() {
    a.resize(static_cast<size_t>(m) * k);
    b.resize(static_cast<size_t>(k) * n);
    c.assign(static_cast<size_t>(m) * n, 0);
    unsigned state = 1;
    for (std::vector<float>* each : {&a, &b}) {
      for (float& value : *each) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(state >> 8) / static_cast<float>(1 << 24) - 0.5f;
      }
    }
  }

  // The largest distance from a plain double-precision product, over a few elements: a peer that is fast but wrong is none.
  double error() const {
    double worst = 0;
    for (int i = 0; i < 16; i++) {
      int row = i * 7919 % m, column = i * 104729 % n;
      double sum = 0;
      for (int p = 0; p < k; p++) {
        double x = a[ta ? static_cast<size_t>(p) * m + row : static_cast<size_t>(row) * k + p];
        double y = b[tb ? static_cast<size_t>(column) * k + p : static_cast<size_t>(p) * n + column];
        sum += x * y;
      }
      double distance = sum - c[static_cast<size_t>(row) * n + column];
      worst = std::max(worst, distance < 0 ? -distance : distance);
    }
    return worst;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  std::vector<const char*> files;
  Library (*load)(void*) = nullptr;
  if (name == "openblas") {
    files = {"libopenblas.so.0", "libopenblas.so", "libopenblas.dylib"};
    load = openblas;
  } else if (name == "blis") {
    files = {"libblis.so.4", "libblis.so", "libblis.dylib"};
    load = blis;
  } else if (name == "onednn") {
    files = {"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so", "libdnnl.dylib"};
    load = onednn;
  } else {
    std::fprintf(stderr, "usage: blas_peer openblas|blis|onednn [library path]\n");
    return 2;
  }
  if (argc > 2) files = {argv[2]};
  std::string reason;
  void* handle = open_first(files, reason);
  Library library = handle ? load(handle) : Library{};
  if (!library.gemm) {
    answer("{\"missing\":" + json(handle ? "the library has no sgemm" : reason) + "}");
    return 0;
  }
  answer("{\"version\":" + json(library.version) + "}");

  Product product;
  char word[16];
  while (std::scanf("%15s", word) == 1) {
    if (std::strcmp(word, "define") == 0) {
      int ta = 0, tb = 0, threads = 1;
      if (std::scanf("%d %d %d %d %d %d", &product.m, &product.k, &product.n, &ta, &tb, &threads) != 6) break;
      product.ta = ta != 0;
      product.tb = tb != 0;
      if (library.set_threads) library.set_threads(threads);
      product.fill();
      library.gemm(product.ta, product.tb, product.m, product.n, product.k, product.a.data(), product.b.data(), product.c.data());
      answer("{\"maximumError\":" + std::to_string(product.error()) + "}");
    } else if (std::strcmp(word, "run") == 0) {
      int repetitions = 1;
      if (std::scanf("%d", &repetitions) != 1 || repetitions < 1 || product.m == 0) break;
      const Product& p = product;
      auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < repetitions; i++) {
        library.gemm(p.ta, p.tb, p.m, p.n, p.k, p.a.data(), p.b.data(), product.c.data());
      }
      double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repetitions;
      char text[64];
      std::snprintf(text, sizeof text, "{\"seconds\":%.9g}", seconds);
      answer(text);
    } else {
      std::fprintf(stderr, "blas_peer: unknown request %s\n", word);
      return 2;
    }
  }
}
