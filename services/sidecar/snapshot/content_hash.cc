#include "services/sidecar/snapshot/content_hash.h"

#include <errno.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

class Hasher {
 public:
  Hasher() : state_(XXH3_createState(), &XXH3_freeState) { XXH3_128bits_reset(state_.get()); }
  void Add(std::string_view bytes) {
    XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  }
  void AddZeros(uint64_t count) {
    static const char kZeros[64 * 1024] = {};
    while (count > 0) {
      const size_t n = std::min<uint64_t>(count, sizeof kZeros);
      Add({kZeros, n});
      count -= n;
    }
  }
  void AddNumber(uint64_t number) {
    char bytes[8];
    for (int i = 7; i >= 0; --i, number >>= 8) bytes[i] = static_cast<char>(number);
    Add({bytes, sizeof bytes});
  }
  std::string Take() {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    return {reinterpret_cast<const char*>(canonical.digest), sizeof canonical.digest};
  }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

}  // namespace

absl::Status ForEachRange(
    int fd, uint64_t size,
    const std::function<absl::Status(uint64_t offset, uint64_t length)>& range) {
  for (uint64_t at = 0; at < size;) {
    uint64_t end = size;
    if (const off_t begin = lseek(fd, static_cast<off_t>(at), SEEK_DATA); begin >= 0) {
      at = static_cast<uint64_t>(begin);
      if (at >= size) break;
      if (const off_t hole = lseek(fd, begin, SEEK_HOLE); hole > begin) {
        end = std::min(end, static_cast<uint64_t>(hole));
      }
    } else if (errno == ENXIO) {
      break;  // only a hole is left
    } else if (errno != EINVAL && errno != EOPNOTSUPP) {
      return StatusFromErrno(errno, "lseek");
    }
    if (absl::Status status = range(at, end - at); !status.ok()) return status;
    at = end;
  }
  return absl::OkStatus();
}

absl::Status ForEachData(
    int fd, uint64_t size, size_t piece,
    const std::function<absl::Status(uint64_t offset, std::string_view)>& data) {
  std::string buffer;
  return ForEachRange(fd, size, [&](uint64_t at, uint64_t length) -> absl::Status {
    for (const uint64_t end = at + length; at < end;) {
      buffer.resize(std::min<uint64_t>(piece, end - at));
      const ssize_t n = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(at));
      if (n < 0) {
        if (errno == EINTR) continue;
        return StatusFromErrno(errno, "pread");
      }
      if (n == 0) break;  // it was truncated meanwhile
      if (absl::Status status = data(at, {buffer.data(), static_cast<size_t>(n)}); !status.ok()) {
        return status;
      }
      at += n;
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<ContentDigest> DigestContent(int fd, uint64_t size) {
  Hasher content, ranges;
  uint64_t hashed = 0;       // of the content
  uint64_t range_begin = 0;  // of the range that `hashed` is the end of
  auto end_range = [&] {
    if (hashed == range_begin) return;
    ranges.AddNumber(range_begin);
    ranges.AddNumber(hashed);
  };
  absl::Status status =
      ForEachData(fd, size, 1 << 20, [&](uint64_t offset, std::string_view bytes) {
        if (offset != hashed) {
          end_range();
          content.AddZeros(offset - hashed);
          range_begin = offset;
        }
        content.Add(bytes);
        hashed = offset + bytes.size();
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  end_range();
  if (hashed < size) content.AddZeros(size - hashed);
  return ContentDigest{content.Take(), ranges.Take()};
}

}  // namespace intermezzo::sidecar
