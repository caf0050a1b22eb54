// Digests of file content, read once and in pieces, holes skipped.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace intermezzo::sidecar {

// Calls `range` with each data range of the open file, in order, up to `size`.
absl::Status ForEachRange(
    int fd, uint64_t size,
    const std::function<absl::Status(uint64_t offset, uint64_t length)>& range);

// Calls `data` with each range of the open file that is not a hole, in order, in pieces of at most
// `piece` bytes, until the file's end as it is at the call. A file system without SEEK_DATA gives
// one range. `data` may end the walk with an error.
absl::Status ForEachData(
    int fd, uint64_t size, size_t piece,
    const std::function<absl::Status(uint64_t offset, std::string_view)>& data);

struct ContentDigest {
  // XXH3 128 bit of all bytes, holes being zeros; canonical form.
  std::string content;
  // XXH3 128 bit over the data ranges, each as two 64 bit big endian numbers: start and end.
  std::string ranges;
};
absl::StatusOr<ContentDigest> DigestContent(int fd, uint64_t size);

}  // namespace intermezzo::sidecar
