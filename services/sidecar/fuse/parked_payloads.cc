#include "services/sidecar/fuse/parked_payloads.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::sidecar {

struct ParkedPayloads::Payload::Room {
  explicit Room(Limits limits) : limits(std::move(limits)) {}

  // A place in the file, which is opened for it where it is not. Nothing where there is none.
  absl::StatusOr<uint64_t> TakePlace(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // The last one out empties the file.
  void LeavePlace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  const Limits limits;
  absl::Mutex mu;
  size_t memory ABSL_GUARDED_BY(mu) = 0;
  // Set once; read without the lock by those who have a place.
  UniqueFd file;
  uint64_t file_end ABSL_GUARDED_BY(mu) = 0;  // places are given in order
  uint64_t in_file ABSL_GUARDED_BY(mu) = 0;   // payloads
};

absl::StatusOr<uint64_t> ParkedPayloads::Payload::Room::TakePlace(size_t size) {
  if (limits.directory.empty() || file_end + size > limits.file_bytes) {
    return absl::ResourceExhaustedError("no room");
  }
  if (!file) {
    file = UniqueFd(open(limits.directory.c_str(), O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600));
    if (!file) {  // Not every file system has unnamed files.
      std::string name = limits.directory + "/parked-XXXXXX";
      file = UniqueFd(mkostemp(name.data(), O_CLOEXEC));
      if (file) unlink(name.c_str());
    }
    if (!file) {
      return StatusFromErrno(errno, absl::StrCat("make a file in ", limits.directory));
    }
  }
  const uint64_t place = file_end;
  file_end += size;
  ++in_file;
  return place;
}

void ParkedPayloads::Payload::Room::LeavePlace() {
  if (--in_file > 0) return;
  file_end = 0;
  (void)!ftruncate(file.get(), 0);
}

ParkedPayloads::Payload::~Payload() {
  if (room_ == nullptr) return;
  absl::MutexLock lock(&room_->mu);
  if (in_file_) {
    room_->LeavePlace();
  } else {
    room_->memory -= size_;
  }
}

absl::StatusOr<std::string_view> ParkedPayloads::Payload::Bytes(std::string& buffer) const {
  if (!in_file_) return std::string_view(bytes_);
  buffer.resize(size_);
  for (size_t done = 0; done < size_;) {
    const ssize_t n =
        pread(room_->file.get(), buffer.data() + done, size_ - done, file_offset_ + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return StatusFromErrno(n == 0 ? EIO : errno, "read a parked write's bytes");
    done += n;
  }
  return std::string_view(buffer);
}

ParkedPayloads::ParkedPayloads(Limits limits)
    : room_(std::make_shared<Payload::Room>(std::move(limits))) {}

ParkedPayloads::~ParkedPayloads() = default;

absl::StatusOr<std::shared_ptr<const ParkedPayloads::Payload>> ParkedPayloads::Keep(
    std::string_view bytes, bool must) {
  std::shared_ptr<Payload> payload(new Payload);
  payload->size_ = bytes.size();
  absl::Status refused;
  {
    absl::MutexLock lock(&room_->mu);
    if (room_->memory + bytes.size() > room_->limits.memory_bytes) {
      absl::StatusOr<uint64_t> place = room_->TakePlace(bytes.size());
      refused = place.status();
      payload->in_file_ = place.ok();
      if (place.ok()) payload->file_offset_ = *place;
    }
    if (!refused.ok() && !must) {
      return StatusFromErrno(EAGAIN,
                             absl::StrCat("writes that wait for the token hold ", room_->memory,
                                          " bytes of memory and ", room_->file_end,
                                          " of disk already: ", std::string(refused.message())));
    }
    if (!payload->in_file_) room_->memory += bytes.size();
    payload->room_ = room_;
  }
  if (!payload->in_file_) {
    payload->bytes_ = std::string(bytes);
    return payload;
  }
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = pwrite(room_->file.get(), bytes.data() + done, bytes.size() - done,
                             payload->file_offset_ + done);
    if (n > 0) done += n;
    if (n > 0 || (n < 0 && errno == EINTR)) continue;
    const int error = n == 0 ? ENOSPC : errno;
    if (!must) {
      return StatusFromErrno(
          EAGAIN,
          absl::StrCat("a write that waits for the token cannot be kept: ", strerror(error)));
    }
    absl::MutexLock lock(&room_->mu);
    room_->LeavePlace();
    payload->in_file_ = false;
    room_->memory += bytes.size();
    payload->bytes_ = std::string(bytes);
    break;
  }
  return payload;
}

size_t ParkedPayloads::memory_bytes() const {
  absl::MutexLock lock(&room_->mu);
  return room_->memory;
}

uint64_t ParkedPayloads::file_bytes() const {
  absl::MutexLock lock(&room_->mu);
  return room_->file_end;
}

}  // namespace intermezzo::sidecar
