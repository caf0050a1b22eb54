#include "services/mezzo/digest_compare.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "services/common/types/view.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

using node::v1::Digest;
using node::v1::ListDigestsResponse;

// A stream read digest by digest, with the cursors at its two ends.
class Reader {
 public:
  explicit Reader(const ReplicaDigests& replica) : node_(replica.node), stream_(*replica.stream) {}

  const std::string& node() const { return node_; }
  // The path at hand; nullptr at the end.
  const Digest* current() const {
    return at_ < message_.digests_size() ? &message_.digests(at_) : nullptr;
  }
  uint64_t first_cursor() const { return first_cursor_; }

  // Reads the opening message.
  absl::Status Open() {
    if (!stream_.Next(message_)) return Broken("ended before its opening cursor");
    first_cursor_ = message_.cursor();
    pending_ = message_.pending();
    return at_ < message_.digests_size() ? absl::OkStatus() : Fill();
  }

  absl::Status Advance() {
    const std::string last = current()->path();
    ++at_;
    if (at_ >= message_.digests_size()) {
      if (absl::Status status = Fill(); !status.ok()) return status;
    }
    if (const Digest* next = current(); next != nullptr && next->path() <= last) {
      return absl::InternalError(absl::StrCat(node_, " sent '", EscapeBytes(next->path()),
                                              "' after '", EscapeBytes(last),
                                              "': digests must come in byte order of the path"));
    }
    return absl::OkStatus();
  }

  // Empty where the replica stood still, as far as it was read.
  std::string Unsteady() const {
    if (pending_) return absl::StrCat(node_, " has updates that the journal does not have yet");
    if (closed_ && last_cursor_ != first_cursor_) {
      return absl::StrCat(node_, " moved from seq ", first_cursor_, " to ", last_cursor_);
    }
    return "";
  }

 private:
  // Reads on to the next message with digests, or to the end.
  absl::Status Fill() {
    at_ = 0;
    int messages = 0;
    uint64_t cursor = message_.cursor();
    bool pending = message_.pending();
    while (stream_.Next(message_)) {
      ++messages;
      if (message_.digests_size() > 0) return absl::OkStatus();
      cursor = message_.cursor();
      pending = message_.pending();
    }
    message_.Clear();
    if (absl::Status status = stream_.status(); !status.ok()) return status;
    if (messages == 0) return Broken("ended without its closing cursor");
    closed_ = true;
    last_cursor_ = cursor;
    pending_ = pending_ || pending;
    return absl::OkStatus();
  }

  absl::Status Broken(std::string_view what) {
    if (absl::Status status = stream_.status(); !status.ok()) return status;
    return absl::InternalError(absl::StrCat("the digests of ", node_, " ", View(what)));
  }

  const std::string node_;
  DigestStream& stream_;
  ListDigestsResponse message_;
  int at_ = 0;
  uint64_t first_cursor_ = 0;
  uint64_t last_cursor_ = 0;
  bool pending_ = false;
  bool closed_ = false;
};

std::string KindName(record::v1::ObjectKind kind) {
  switch (kind) {
    case record::v1::OBJECT_KIND_FILE:
      return "file";
    case record::v1::OBJECT_KIND_DIRECTORY:
      return "directory";
    case record::v1::OBJECT_KIND_SYMLINK:
      return "symbolic link";
    case record::v1::OBJECT_KIND_FIFO:
      return "fifo";
    case record::v1::OBJECT_KIND_SOCKET:
      return "socket";
    case record::v1::OBJECT_KIND_CHARACTER_DEVICE:
      return "character device";
    case record::v1::OBJECT_KIND_BLOCK_DEVICE:
      return "block device";
    default:
      return absl::StrCat("kind ", static_cast<int>(kind));
  }
}

std::string MtimeText(const Digest& digest) {
  const record::v1::Timespec& mtime = digest.attributes().mtime();
  return absl::StrFormat(
      "%s.%09d",
      absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(mtime.seconds()),
                       absl::UTCTimeZone()),
      mtime.nanos());
}

// Long values in hexadecimal, cut after 32 bytes with their length.
std::string ValueText(const std::string& value) {
  constexpr size_t kShown = 32;
  if (value.size() <= kShown) return absl::StrCat("\"", EscapeBytes(value), "\"");
  return absl::StrCat("\"", EscapeBytes(value.substr(0, kShown)), "\"... (", value.size(),
                      " bytes, ", Hex(value), ")");
}

std::optional<std::string> FindXattr(const Digest& digest, const std::string& name) {
  for (const record::v1::Xattr& xattr : digest.xattrs()) {
    if (xattr.name() == name) return xattr.value();
  }
  return std::nullopt;
}

class ObjectComparison {
 public:
  explicit ObjectComparison(const std::vector<std::pair<std::string, const Digest*>>& digests)
      : digests_(digests) {}

  // A difference where the texts of the replicas are not all the same.
  template <typename Text>
  void Field(const std::string& field, const Text& text) {
    Difference difference{.path = Path(), .field = field, .values = {}};
    std::set<std::string> distinct;
    for (const auto& [node, digest] : digests_) {
      const std::string value = digest == nullptr ? "absent" : text(*digest);
      distinct.insert(value);
      difference.values.emplace(node, value);
    }
    if (distinct.size() > 1) found_.push_back(std::move(difference));
  }

  void Xattrs() {
    std::set<std::string> names;
    for (const auto& [node, digest] : digests_) {
      for (const record::v1::Xattr& xattr : digest->xattrs()) names.insert(xattr.name());
    }
    for (const std::string& name : names) {
      Field(absl::StrCat(absl::StartsWith(name, "system.posix_acl_") ? "ACL " : "xattr ",
                         EscapeBytes(name)),
            [&](const Digest& digest) {
              const auto value = FindXattr(digest, name);
              return value ? ValueText(*value) : std::string("not set");
            });
    }
  }

  bool different() const { return !found_.empty(); }
  std::vector<Difference> Take() { return std::move(found_); }

 private:
  std::string Path() const {
    for (const auto& [node, digest] : digests_) {
      if (digest != nullptr) return digest->path();
    }
    return "";
  }

  const std::vector<std::pair<std::string, const Digest*>>& digests_;
  std::vector<Difference> found_;
};

}  // namespace

std::vector<Difference> CompareObject(
    const std::vector<std::pair<std::string, const Digest*>>& digests) {
  ObjectComparison comparison(digests);
  comparison.Field("presence", [](const Digest& d) { return KindName(d.kind()); });
  if (comparison.different()) return comparison.Take();
  comparison.Field("object", [](const Digest& d) {
    return absl::StrCat(d.object() >> 40, ":", d.object() & ((uint64_t{1} << 40) - 1));
  });
  comparison.Field("size", [](const Digest& d) { return absl::StrCat(d.size()); });
  comparison.Field("content", [](const Digest& d) { return Hex(d.content_xxh3()); });
  comparison.Field("holes", [](const Digest& d) { return Hex(d.holes_xxh3()); });
  comparison.Field("target", [](const Digest& d) { return ValueText(d.symlink_target()); });
  comparison.Field("device", [](const Digest& d) { return absl::StrFormat("%#x", d.rdev()); });
  comparison.Field("mode",
                   [](const Digest& d) { return absl::StrFormat("%04o", d.attributes().mode()); });
  comparison.Field("owner", [](const Digest& d) { return absl::StrCat(d.attributes().uid()); });
  comparison.Field("group", [](const Digest& d) { return absl::StrCat(d.attributes().gid()); });
  comparison.Field("mtime", MtimeText);
  comparison.Field("link group", [](const Digest& d) {
    return d.link_group().empty() ? std::string("one name") : ValueText(d.link_group());
  });
  comparison.Xattrs();
  return comparison.Take();
}

absl::StatusOr<Comparison> CompareReplicas(const std::vector<ReplicaDigests>& replicas,
                                           size_t max_differences,
                                           const ComparisonProgress& progress) {
  Comparison result;
  std::vector<Reader> readers(replicas.begin(), replicas.end());
  for (Reader& reader : readers) {
    if (absl::Status status = reader.Open(); !status.ok()) return status;
    result.unsteady = reader.Unsteady();
    if (!result.unsteady.empty()) return result;
    if (reader.first_cursor() != readers.front().first_cursor()) {
      result.unsteady =
          absl::StrCat(readers.front().node(), " is at seq ", readers.front().first_cursor(), ", ",
                       reader.node(), " at ", reader.first_cursor());
      return result;
    }
  }
  if (readers.empty()) return result;
  result.seq = readers.front().first_cursor();

  std::vector<std::pair<std::string, const Digest*>> at_path(readers.size());
  while (true) {
    const std::string* path = nullptr;
    for (const Reader& reader : readers) {
      const Digest* digest = reader.current();
      if (digest != nullptr && (path == nullptr || digest->path() < *path)) path = &digest->path();
    }
    if (path == nullptr) break;
    bool counted = false;
    for (size_t i = 0; i < readers.size(); ++i) {
      const Digest* digest = readers[i].current();
      const bool has_it = digest != nullptr && digest->path() == *path;
      at_path[i] = {readers[i].node(), has_it ? digest : nullptr};
      if (has_it && !counted) {
        result.bytes += digest->size();
        counted = true;
      }
    }
    ++result.objects;
    for (Difference& difference : CompareObject(at_path)) {
      ++result.difference_count;
      if (result.differences.size() < max_differences) {
        result.differences.push_back(std::move(difference));
      }
    }
    for (size_t i = 0; i < readers.size(); ++i) {
      if (at_path[i].second == nullptr) continue;
      if (absl::Status status = readers[i].Advance(); !status.ok()) return status;
    }
    if (progress && result.objects % 64 == 0) progress(result.objects, result.bytes);
  }
  for (const Reader& reader : readers) {
    if (result.unsteady.empty()) result.unsteady = reader.Unsteady();
  }
  return result;
}

}  // namespace intermezzo::mezzo
