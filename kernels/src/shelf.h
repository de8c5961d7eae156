// Packed weights: sessions whose graphs read the same bytes of a file share them.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "ort.h"

namespace ptune {

// Memory that begins at a large page and, once it is merged, lies in such pages where the system has them: weights are
// read from end to end. While they are packed it has small ones, which the system has at hand: a virtual machine's large
// pages may be new to its host, which then takes seconds to find memory for a gigabyte of them.
class Pages {
 public:
  explicit Pages(size_t size) : size_((size + kPage - 1) / kPage * kPage) {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(kPage, size_));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { std::free(data_); }
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  static constexpr size_t kPage = size_t{1} << 21;

  // Makes one large page of those at an offset. Others may read there meanwhile, and wait until it is moved.
  void merge([[maybe_unused]] size_t at) const {
#ifdef __linux__
    if (madvise(data_ + at, kPage, kCollapse) != 0 && errno == EINVAL)
      madvise(data_ + at, kPage, MADV_HUGEPAGE);  // before Linux 6.1: the system merges them as it finds the time
#endif
  }

 private:
  static constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers do not name
  size_t size_;
  uint8_t* data_;
};

// Those of sessions that open together lie in the same pages, which go with the last of them.
struct Packed {
  std::shared_ptr<const Pages> pages;
  const uint8_t* bytes;
  size_t size;
};

class Shelf {
 public:
  // The weights that are shared under this name, packed now if no open session has them; of no name: this
  // session's own.
  template <typename Pack>
  std::shared_ptr<const Packed> get(const std::string& name, size_t size, const Pack& pack) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!name.empty())
      if (auto there = known_[name].lock()) {
        if (there->size != size) refuse("other weights are shared as " + name);
        return there;
      }
    uint8_t* room = nullptr;
    std::shared_ptr<const Pages> pages = place(size, room);
    pack(room);
    auto fresh = std::make_shared<const Packed>(Packed{std::move(pages), room, size});
    if (!name.empty()) known_[name] = fresh;
    return fresh;
  }

  // Merges one large page that is still small ones; false where there is none.
  bool merge_one() {
    std::shared_ptr<const Pages> pages;
    size_t at = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (!small_.empty()) {
        pages = small_.back().lock();
        if (pages != nullptr && merged_ < pages->size()) break;
        small_.pop_back();
        merged_ = 0;
      }
      if (small_.empty()) return false;
      at = merged_;
      merged_ += Pages::kPage;
    }
    pages->merge(at);
    return true;
  }

 private:
  static constexpr size_t kTogether = size_t{32} << 20;

  std::shared_ptr<const Pages> place(size_t size, uint8_t*& room) {
    size = (size + 63) / 64 * 64;
    auto pages = open_.lock();
    if (pages == nullptr || pages->size() - used_ < size) {
      pages = std::make_shared<const Pages>(std::max(size, kTogether));
      open_ = pages;
      used_ = 0;
      small_.push_back(pages);
      merged_ = 0;
    }
    room = pages->data() + used_;
    used_ += size;
    return pages;
  }

  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Packed>> known_;
  std::weak_ptr<const Pages> open_;
  std::vector<std::weak_ptr<const Pages>> small_;
  size_t merged_ = 0;  // bytes of the last of them
  size_t used_ = 0;
};

inline Shelf& shelf() {
  static Shelf* const shelf = new Shelf;  // never deleted: sessions may outlive this library's statics
  return *shelf;
}

}  // namespace ptune
