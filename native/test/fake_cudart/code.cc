#include "code.h"

#include <elf.h>

#include <cstring>
#include <stdexcept>
#include <string_view>

namespace fake_cudart {

namespace {

template <class T>
T read(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Of a fat binary: a header, then entries, each with a header of its own.
constexpr uint32_t kFatBinary = 0xBA55ED50;
constexpr uint16_t kMachineCode = 2;  // 1: PTX
constexpr uint64_t kArchitectureSpecific = 0x100000;

// Attributes of .nv.info: a byte of format, a byte of what it is, then two bytes of value or of size.
constexpr unsigned char kSized = 4;
enum Attribute : unsigned char { kMaxThreads = 0x05, kParameterInfo = 0x17, kRegisterCount = 0x2f };

class Cubin {
 public:
  explicit Cubin(const unsigned char* data) : data_(data), header_(read<Elf64_Ehdr>(data)) {
    for (unsigned i = 0; i < header_.e_shnum; ++i) sections_.push_back(read<Elf64_Shdr>(data + header_.e_shoff + i * sizeof(Elf64_Shdr)));
  }

  void read_kernels(Module& module) const {
    for (const Elf64_Shdr& section : sections_)
      if (name_of(section).starts_with(".text.")) module.kernels[std::string(name_of(section).substr(6))];
    for (const Elf64_Shdr& section : sections_) {
      const std::string_view name = name_of(section);
      const auto kernel = [&](size_t prefix) {
        const auto found = module.kernels.find(std::string(name.substr(prefix)));
        return found == module.kernels.end() ? nullptr : &found->second;
      };
      if (name == ".nv.info") read_registers(section, module);
      else if (name.starts_with(".nv.info."))
        if (KernelCode* code = kernel(9)) read_attributes(section, *code);
      if (name.starts_with(".nv.shared."))
        if (KernelCode* code = kernel(11)) code->shared_bytes = section.sh_size;
    }
    for (const auto& [name, code] : module.kernels)
      if (code.registers == 0) throw std::runtime_error("the machine code of " + name + " does not say how many registers it needs");
  }

 private:
  std::string_view name_of(const Elf64_Shdr& section) const {
    return reinterpret_cast<const char*>(data_ + sections_.at(header_.e_shstrndx).sh_offset + section.sh_name);
  }

  template <class Visit>
  void for_attributes(const Elf64_Shdr& section, const Visit& visit) const {
    const unsigned char *at = data_ + section.sh_offset, *end = at + section.sh_size;
    while (at + 4 <= end) {
      const size_t bytes = at[0] == kSized ? read<uint16_t>(at + 2) : 0;
      if (bytes) visit(at[1], at + 4);
      at += 4 + bytes;
    }
  }

  void read_registers(const Elf64_Shdr& section, Module& module) const {
    for (const Elf64_Shdr& symbols : sections_) {
      if (symbols.sh_type != SHT_SYMTAB) continue;
      for_attributes(section, [&](unsigned char what, const unsigned char* value) {
        if (what != kRegisterCount) return;
        const auto symbol = read<Elf64_Sym>(data_ + symbols.sh_offset + read<uint32_t>(value) * sizeof(Elf64_Sym));
        const char* name = reinterpret_cast<const char*>(data_ + sections_.at(symbols.sh_link).sh_offset + symbol.st_name);
        const auto found = module.kernels.find(name);
        if (found != module.kernels.end()) found->second.registers = static_cast<int>(read<uint32_t>(value + 4));
      });
    }
  }

  void read_attributes(const Elf64_Shdr& section, KernelCode& code) const {
    for_attributes(section, [&](unsigned char what, const unsigned char* value) {
      if (what == kMaxThreads) code.max_threads = read<uint32_t>(value) * read<uint32_t>(value + 4) * read<uint32_t>(value + 8);
      if (what != kParameterInfo) return;
      const size_t ordinal = read<uint16_t>(value + 4);
      if (code.parameters.size() <= ordinal) code.parameters.resize(ordinal + 1);
      code.parameters[ordinal] = {read<uint16_t>(value + 6), read<uint32_t>(value + 8) >> 18};
    });
  }

  const unsigned char* data_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Shdr> sections_;
};

}  // namespace

Module read_module(const void* fat_binary, int capability) {
  const auto* begin = static_cast<const unsigned char*>(fat_binary);
  if (read<uint32_t>(begin) != kFatBinary) throw std::runtime_error("this is no fat binary");
  const unsigned char *at = begin + read<uint16_t>(begin + 6), *end = at + read<uint64_t>(begin + 8);
  const unsigned char* chosen = nullptr;
  int newest = 0;
  Module module;
  while (at < end) {
    const auto entry = read<uint32_t>(at + 4), compressed = read<uint32_t>(at + 16), architecture = read<uint32_t>(at + 28);
    const auto flags = read<uint64_t>(at + 40);
    const int sm = static_cast<int>(architecture);
    const bool specific = flags & kArchitectureSpecific;
    if (read<uint16_t>(at) == kMachineCode && sm / 10 == capability / 10 && sm <= capability && sm >= newest && (!specific || sm == capability)) {
      if (compressed) throw std::runtime_error("the machine code is compressed");
      chosen = at + entry;
      newest = sm;
      module.architecture_specific = specific;
    }
    at += entry + read<uint64_t>(at + 8);
  }
  if (!chosen) throw std::runtime_error("there is no machine code for compute capability " + std::to_string(capability));
  if (std::memcmp(chosen, ELFMAG, SELFMAG) != 0) throw std::runtime_error("the machine code is no ELF file");
  Cubin(chosen).read_kernels(module);
  return module;
}

}  // namespace fake_cudart
