// platform.h over host memory: what a device would do later happens at once, in the order of the stream; on a stream for copies as late
// as it may, so that a copy that nobody waits for is one that has not happened.
#include "platform.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "emulation/block.h"
#include "event.h"
#include "error.h"

namespace trefoil::cuda::platform {

// A grid, or something else.
struct Work {
  std::optional<emulation::Submission> grid;
  std::function<void()> other;
};
struct GraphHandle {
  std::vector<Work> work;
};
struct StreamHandle {
  std::unique_ptr<GraphHandle> recording;
  bool late = false;
  std::vector<std::function<void()>> pending;  // of a late stream

  void catch_up() {
    for (const auto& work : std::exchange(pending, {})) work();
  }
};
struct EventHandle {
  Stream stream = nullptr;
};

namespace {
thread_local bool backward = false;

// Large memory is pages that cost nothing until they are written, up to one that nobody may touch.
constexpr size_t kPages = size_t{1} << 20, kPage = 4096;
struct Pages {
  std::mutex mutex;
  std::map<void*, std::pair<void*, size_t>> taken;
};
Pages& pages() {
  static Pages& all = *new Pages;  // never destroyed: memory is freed while the process ends
  return all;
}
char* take_pages(size_t bytes) {
  const size_t readable = (bytes + kPage - 1) / kPage * kPage;
  void* begin = mmap(nullptr, readable + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) return nullptr;
  mprotect(static_cast<char*>(begin) + readable, kPage, PROT_NONE);
  char* memory = static_cast<char*>(begin) + (readable - bytes);
  std::lock_guard lock(pages().mutex);
  pages().taken[memory] = {begin, readable + kPage};
  return memory;
}
bool give_pages_back(void* memory) {
  std::lock_guard lock(pages().mutex);
  const auto found = pages().taken.find(memory);
  if (found == pages().taken.end()) return false;
  munmap(found->second.first, found->second.second);
  pages().taken.erase(found);
  return true;
}

void enqueue(Stream stream, std::function<void()> work) {
  if (stream->recording)
    stream->recording->work.push_back({{}, std::move(work)});
  else if (stream->late)
    stream->pending.push_back(std::move(work));
  else
    work();
}
}  // namespace

const char* backend_name() { return "cuda_emulated"; }
// Two devices that differ in the order in which blocks, warps and lanes take their turns.
int device_count(std::string&) { return 2; }
// As many multiprocessors as a test says: blocks that take tile after tile are that many, and results may not depend on it.
Properties properties(int index) {
  const char* wanted = std::getenv("TREFOIL_EMULATED_MULTIPROCESSORS");
  return {index == 0 ? "emulated" : "emulated, backward", 0, wanted ? std::atoi(wanted) : 4, 227 * 1024};
}
void select(int index) { backward = index == 1; }
void check_code() {}
bool has_hopper_code() { return true; }

Stream create_stream() { return new StreamHandle; }
Stream create_copy_stream() {
  Stream stream = new StreamHandle;
  stream->late = true;
  return stream;
}
void destroy_stream(Stream stream) { delete stream; }
void synchronize(Stream stream) {
  if (stream->recording) fail(TREFOIL_INTERNAL, "the stream is being captured: nothing can be waited for");
  stream->catch_up();
}

void* allocate(size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64 + (bytes ? 0 : 64);
  char* memory = static_cast<char*>(rounded < kPages ? std::aligned_alloc(64, rounded) : take_pages(rounded));
  if (!memory) return nullptr;
  if (rounded < kPages) std::memset(memory, 0, bytes);
  // NaN past the end: a kernel that reads there, and multiplies what it finds by zero, has NaN as its result.
  std::memset(memory + bytes, 0xFF, rounded - bytes);
  return memory;
}
void release(void* pointer) {
  if (!give_pages_back(pointer)) std::free(pointer);
}
void* allocate_pinned(size_t bytes) { return allocate(bytes); }
void release_pinned(void* pointer) { release(pointer); }
void copy_in(Stream stream, void* to, const void* host, size_t bytes) { copy(stream, to, host, bytes); }
void copy_out(Stream stream, void* host, const void* from, size_t bytes) { copy(stream, host, from, bytes); }
void copy(Stream stream, void* to, const void* from, size_t bytes) {
  enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
void fill_zero(Stream stream, void* to, size_t bytes) {
  enqueue(stream, [=] { std::memset(to, 0, bytes); });
}

// Only on a stream for copies is there anything left to wait for.
Event create_event() { return new EventHandle; }
void destroy_event(Event event) { delete event; }
void record(Event event, Stream stream) { event->stream = stream; }
void wait_for(Stream, Event event) { wait(event); }
void wait(Event event) {
  if (event->stream) event->stream->catch_up();
}

void capture_begin(Stream stream) { stream->recording = std::make_unique<GraphHandle>(); }
Graph capture_end(Stream stream) { return stream->recording.release(); }
// Early grids begin before the one before them, each that may: what they read too soon is old.
void replay(Stream, Graph graph) {
  std::unique_ptr<emulation::Grid> begun;
  for (size_t i = 0; i < graph->work.size(); ++i) {
    const Work& work = graph->work[i];
    if (!work.grid) {
      work.other();
      continue;
    }
    const std::unique_ptr<emulation::Grid> grid = begun ? std::move(begun) : std::make_unique<emulation::Grid>(*work.grid, backward);
    const Work* next = i + 1 < graph->work.size() ? &graph->work[i + 1] : nullptr;
    if (next && next->grid && next->grid->early) {
      begun = std::make_unique<emulation::Grid>(*next->grid, backward);
      begun->start();
    }
    grid->finish();
  }
}
void release_graph(Graph graph) { delete graph; }

}  // namespace trefoil::cuda::platform

namespace trefoil::cuda::emulation {

void submit(platform::Stream stream, Submission submission) {
  if (stream->recording) stream->recording->work.push_back({std::move(submission), {}});
  else Grid(submission, platform::backward).finish();
}

}  // namespace trefoil::cuda::emulation
