// The byte ranges of one file that were written and are not yet in a record.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace intermezzo::sidecar {

// Not thread-safe. Overlapping and adjacent ranges are one. Over kMaxExtents the two with the
// smallest gap are merged; the range is then `sparse`: it has bytes that nobody wrote, which are as
// they were and need not be sent.
class ExtentSet {
 public:
  static constexpr size_t kMaxExtents = 64;

  struct Extent {
    uint64_t offset = 0;
    uint64_t length = 0;
    bool sparse = false;
    friend bool operator==(const Extent&, const Extent&) = default;
  };

  // Length 0 adds nothing; a range that would end over 2^64 - 1 is cut there.
  void Add(uint64_t offset, uint64_t length, bool sparse = false);
  // Removes the first extents, at most `max_bytes` together; the last one may be split. A sparse
  // one is taken wholly, and is the last.
  std::vector<Extent> Take(uint64_t max_bytes);

  bool empty() const { return extents_.empty(); }
  // About how many bytes were written: gaps are not counted.
  uint64_t bytes() const { return bytes_; }

 private:
  struct End {
    uint64_t end = 0;
    uint64_t written = 0;  // at most
    bool sparse = false;
  };
  void MergeClosest();

  std::map<uint64_t, End> extents_;  // by first byte
  uint64_t bytes_ = 0;
};

}  // namespace intermezzo::sidecar
