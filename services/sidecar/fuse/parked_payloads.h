// The bytes that parked writes wait with. A request is read from the kernel with its data, so a
// write that may not go on cannot be left where it was; and nobody can be kept from reading the
// next request (the one that opens the gate may be behind it). So the data waits here: in memory up
// to a limit, beyond it in an unlinked file on the node's disk, up to another limit, and beyond
// that the write is refused.
//
// Any thread. Nothing waits but for the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace intermezzo::sidecar {

class ParkedPayloads {
 public:
  struct Limits {
    size_t memory_bytes = 64 << 20;
    uint64_t file_bytes = uint64_t{1} << 30;
    // Where the file is made when it is needed first; empty: no file.
    std::string directory = {};
  };

  // One write's bytes; gives the room back when it goes. May outlive the ParkedPayloads.
  class Payload {
   public:
    ~Payload();
    Payload(const Payload&) = delete;
    Payload& operator=(const Payload&) = delete;
    // The bytes, for which `buffer` may be used. An error of the disk where they cannot be read.
    absl::StatusOr<std::string_view> Bytes(std::string& buffer) const;

   private:
    friend class ParkedPayloads;
    struct Room;
    Payload() = default;

    std::shared_ptr<Room> room_;
    std::string bytes_;     // in memory, or
    bool in_file_ = false;  // there
    uint64_t file_offset_ = 0;
    size_t size_ = 0;
  };

  explicit ParkedPayloads(Limits limits);
  ~ParkedPayloads();

  // RESOURCE_EXHAUSTED (EAGAIN): both limits are reached, or the first and the file cannot take it.
  // `must`: in that case it is kept in memory. For pages of mappings, which would be lost, and
  // which the kernel itself bounds (kMaxBackground requests).
  absl::StatusOr<std::shared_ptr<const Payload>> Keep(std::string_view bytes, bool must);

  size_t memory_bytes() const;
  uint64_t file_bytes() const;

 private:
  const std::shared_ptr<Payload::Room> room_;
};

}  // namespace intermezzo::sidecar
