#include "services/sidecar/node_service/digest_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/snapshot/content_hash.h"

namespace intermezzo::sidecar {
namespace {

bool IsGone(const absl::Status& status) {
  const int error = ErrnoFromStatus(status);
  return error == ENOENT || error == ESTALE || error == ENOTDIR || error == ELOOP;
}

class Walker {
 public:
  Walker(Replica& replica, const std::function<bool(node::v1::Digest)>& digest)
      : replica_(replica), digest_(digest) {}

  absl::Status Run() {
    UniqueFd root(openat(replica_.lower().root_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return StatusFromErrno(errno, "open the lower directory");
    if (absl::Status status = Emit(root.get(), "", ""); !status.ok()) return status;
    return Descend(root.get(), "");
  }

 private:
  // What happens at one place of the order: an object, or (for "name/") all below it.
  struct Step {
    std::string key;
    bool below = false;
  };

  absl::Status Descend(int dir_fd, const std::string& path) {
    auto steps = Steps(dir_fd);
    if (!steps.ok()) return steps.status();
    for (Step& step : *steps) {
      absl::Status status;
      if (!step.below) {
        status = Emit(dir_fd, step.key, absl::StrCat(path, step.key));
      } else {
        const std::string name = step.key.substr(0, step.key.size() - 1);
        UniqueFd fd(openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        status = fd ? Descend(fd.get(), absl::StrCat(path, step.key))
                    : StatusFromErrno(errno, absl::StrCat("open ", path, name));
      }
      if (!status.ok() && !IsGone(status)) return status;
      std::string().swap(step.key);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<Step>> Steps(int dir_fd) {
    // A description of its own, so that reading does not move another's position.
    const int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return StatusFromErrno(errno, "open a directory");
    std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(fd), &closedir);
    if (dir == nullptr) return StatusFromErrno(errno, "read a directory");
    std::vector<Step> steps;
    for (;;) {
      errno = 0;
      const dirent* entry = readdir(dir.get());
      if (entry == nullptr) {
        if (errno != 0) return StatusFromErrno(errno, "read a directory");
        break;
      }
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      bool directory = entry->d_type == DT_DIR;
      if (entry->d_type == DT_UNKNOWN) {
        struct stat st;
        directory = fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
      }
      if (directory) steps.push_back({absl::StrCat(name, "/"), true});
      steps.push_back({name, false});
    }
    // Byte order of whole paths: "a.b" comes before "a/x", so what is below "a" is a step "a/".
    std::sort(steps.begin(), steps.end(),
              [](const Step& a, const Step& b) { return a.key < b.key; });
    return steps;
  }

  // `name` empty: dir_fd itself.
  absl::Status Emit(int dir_fd, const std::string& name, const std::string& path) {
    UniqueFd fd(openat(dir_fd, name.empty() ? "." : name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return StatusFromErrno(errno, absl::StrCat("open ", path));
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return StatusFromErrno(errno, absl::StrCat("stat ", path));
    node::v1::Digest digest;
    digest.set_path(path);
    digest.set_kind(KindOf(st.st_mode));
    *digest.mutable_attributes() = AttributesOf(st);
    auto xattrs = ReadXattrs(fd.get());
    if (!xattrs.ok()) return xattrs.status();
    std::sort(xattrs->begin(), xattrs->end(),
              [](const auto& a, const auto& b) { return a.name() < b.name(); });
    for (record::v1::Xattr& xattr : *xattrs) digest.add_xattrs()->Swap(&xattr);
    if (S_ISREG(st.st_mode)) {
      UniqueFd content(openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME));
      if (!content) return StatusFromErrno(errno, absl::StrCat("open ", path));
      digest.set_size(st.st_size);
      auto hashes = DigestContent(content.get(), st.st_size);
      if (!hashes.ok()) return hashes.status();
      digest.set_content_xxh3(hashes->content);
      digest.set_holes_xxh3(hashes->ranges);
    } else if (S_ISLNK(st.st_mode)) {
      char target[PATH_MAX];
      const ssize_t n = readlinkat(fd.get(), "", target, sizeof target);
      if (n < 0) return StatusFromErrno(errno, absl::StrCat("readlink ", path));
      digest.set_symlink_target(target, n);
    } else if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
      digest.set_rdev(EncodeDevice(st.st_rdev));
    }
    const ObjectId object =
        name.empty() ? kRootObject : replica_.db().ByInode(static_cast<uint64_t>(st.st_ino));
    digest.set_object(object.value());
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) digest.set_link_group(FirstPath(object));
    if (!digest_(std::move(digest))) return absl::CancelledError("the caller is gone");
    return absl::OkStatus();
  }

  // The first path of an object with several names; empty where the table changes under the walk.
  std::string FirstPath(ObjectId object) {
    const auto row = replica_.db().Object(object);
    if (!row) return "";
    std::optional<std::string> first;
    for (const storage::v1::LinkRow& link : row->links()) {
      const auto parent = DirectoryPath(ObjectId(link.parent()));
      if (!parent) continue;
      std::string path = absl::StrCat(*parent, link.name());
      if (!first || path < *first) first = std::move(path);
    }
    return first.value_or("");
  }

  // With a slash at the end; empty for the root.
  std::optional<std::string> DirectoryPath(ObjectId directory) {
    std::string path;
    for (int depth = 0; directory != kRootObject; ++depth) {
      const auto row = replica_.db().Object(directory);
      if (!row || row->links().empty() || depth > PATH_MAX) return std::nullopt;
      path = absl::StrCat(row->links(0).name(), "/", path);
      directory = ObjectId(row->links(0).parent());
    }
    return path;
  }

  Replica& replica_;
  const std::function<bool(node::v1::Digest)>& digest_;
};

}  // namespace

absl::Status WalkDigests(Replica& replica, const std::function<bool(node::v1::Digest)>& digest) {
  return Walker(replica, digest).Run();
}

}  // namespace intermezzo::sidecar
