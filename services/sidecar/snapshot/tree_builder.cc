#include "services/sidecar/snapshot/tree_builder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/common/types/names.h"
#include "services/sidecar/snapshot/chunk.h"
#include "services/sidecar/snapshot/content_hash.h"
#include "services/sidecar/snapshot/directory.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::SnapshotObject;
using record::v1::OBJECT_KIND_BLOCK_DEVICE;
using record::v1::OBJECT_KIND_CHARACTER_DEVICE;
using record::v1::OBJECT_KIND_DIRECTORY;
using record::v1::OBJECT_KIND_FIFO;
using record::v1::OBJECT_KIND_FILE;
using record::v1::OBJECT_KIND_SOCKET;
using record::v1::OBJECT_KIND_SYMLINK;

// On a file whose content is not complete.
constexpr char kMark[] = "trusted.intermezzo.fetching";

absl::Status Errno(const std::string& what, const std::string& path) {
  return StatusFromErrno(errno, absl::StrCat(what, " \"", absl::CHexEscape(path), "\""));
}

bool IsDevice(record::v1::ObjectKind kind) {
  return kind == OBJECT_KIND_CHARACTER_DEVICE || kind == OBJECT_KIND_BLOCK_DEVICE;
}

// Below `base` and so that nothing of the path is followed out of it.
absl::Status MakeParents(const std::string& base, const std::string& path) {
  if (mkdir(base.c_str(), 0700) != 0 && errno != EEXIST) return Errno("mkdir", base);
  for (size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1)) {
    const std::string dir = absl::StrCat(base, "/", path.substr(0, at));
    if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return Errno("mkdir", dir);
  }
  return absl::OkStatus();
}

absl::Status SetXattrs(int fd, const SnapshotObject& object) {
  const std::string path = DescriptorPath(fd);
  auto present = ReadXattrs(fd);
  if (!present.ok()) return present.status();
  for (const auto& xattr : *present) {
    const bool wanted = std::any_of(object.xattrs().begin(), object.xattrs().end(),
                                    [&](const auto& x) { return x.name() == xattr.name(); });
    if (wanted || removexattr(path.c_str(), xattr.name().c_str()) == 0) continue;
    if (errno != ENODATA && errno != ENOTSUP) return Errno("removexattr", xattr.name());
  }
  for (const auto& xattr : object.xattrs()) {
    const bool same = std::any_of(present->begin(), present->end(), [&](const auto& x) {
      return x.name() == xattr.name() && x.value() == xattr.value();
    });
    if (same || setxattr(path.c_str(), xattr.name().c_str(), xattr.value().data(),
                         xattr.value().size(), 0) == 0) {
      continue;
    }
    // A label of a security module that this machine does not run means nothing here.
    if (errno == ENOTSUP && absl::StartsWith(xattr.name(), "security.")) continue;
    return Errno("setxattr", xattr.name());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TreeBuilder::Add(SnapshotObject object) {
  const uint64_t id = object.object();
  if (id == 0 || items_.contains(id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("snapshot: object ", id, " twice or without id"));
  }
  const bool root = id == kRootObject.value();
  if (root != object.links().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("snapshot: object ", id, " has no name"));
  }
  if (object.kind() == OBJECT_KIND_DIRECTORY
          ? object.links_size() > 1
          : root || object.kind() <= 0 || object.kind() > OBJECT_KIND_BLOCK_DEVICE) {
    return absl::InvalidArgumentError(absl::StrCat("snapshot: object ", id, " cannot be"));
  }
  for (const auto& link : object.links()) {
    if (absl::Status status = EntryName::Parse(link.name()).status(); !status.ok()) return status;
    const auto parent = items_.find(link.parent());
    if (parent == items_.end() || parent->second.object.kind() != OBJECT_KIND_DIRECTORY) {
      return absl::InvalidArgumentError(
          absl::StrCat("snapshot: object ", id, " comes before its directory ", link.parent()));
    }
    below_[link.parent()].emplace_back(link.name(), id);
  }
  order_.push_back(id);
  items_[id].object = std::move(object);
  return absl::OkStatus();
}

absl::Status TreeBuilder::Build(const std::function<absl::Status()>& check) {
  const auto root = items_.find(kRootObject.value());
  if (root == items_.end()) return absl::InvalidArgumentError("snapshot: no root");
  UniqueFd fd(openat(lower_.root_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Errno("open", lower_.root());
  if (absl::Status status = Remember(root->second, fd.get(), ""); !status.ok()) return status;
  directories_.emplace_back(kRootObject.value(), "");
  for (size_t next = 0; next < directories_.size(); ++next) {
    const auto [id, path] = directories_[next];
    if (absl::Status status = Directory(items_[id], path, check); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TreeBuilder::Directory(Item& directory, const std::string& path,
                                    const std::function<absl::Status()>& check) {
  auto fd = lower_.OpenObject(directory.handle, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) return fd.status();
  auto present = ReadNames(fd->get());
  if (!present.ok()) return present.status();
  std::unordered_set<std::string> wanted;
  const Names& names = below_[directory.object.object()];
  for (const auto& [name, id] : names) wanted.insert(name);
  for (const std::string& name : *present) {
    if (wanted.contains(name)) continue;
    if (absl::Status status = SetAside(fd->get(), name, absl::StrCat(path, name)); !status.ok()) {
      return status;
    }
  }
  for (const auto& [name, id] : names) {
    if (absl::Status status = check(); !status.ok()) return status;
    if (absl::Status status = Place(items_[id], fd->get(), name, absl::StrCat(path, name));
        !status.ok()) {
      return status;
    }
  }
  return SetAttributes(directory, directory.object, false);
}

absl::Status TreeBuilder::Place(Item& item, int dir_fd, const std::string& name,
                                const std::string& path) {
  auto keep = Keep(item, dir_fd, name);
  if (!keep.ok()) return keep.status();
  const bool first = !item.placed;
  if (!*keep) {
    if (absl::Status status = SetAside(dir_fd, name, path); !status.ok()) return status;
    if (item.placed) {
      auto fd = lower_.OpenObject(item.handle, O_PATH);
      if (!fd.ok()) return fd.status();
      if (linkat(fd->get(), "", dir_fd, name.c_str(), AT_EMPTY_PATH) != 0) {
        return Errno("link", path);
      }
      return absl::OkStatus();
    }
    if (absl::Status status = Make(item, dir_fd, name); !status.ok()) return status;
  } else if (first && item.object.kind() == OBJECT_KIND_FILE) {
    ++kept_files_;
  }
  if (!first) return absl::OkStatus();
  if (absl::Status status = Remember(item, dir_fd, name); !status.ok()) return status;
  if (item.object.kind() == OBJECT_KIND_DIRECTORY) {
    directories_.emplace_back(item.object.object(), absl::StrCat(path, "/"));
    return absl::OkStatus();
  }
  if (item.wanted) {
    wanted_.push_back(ObjectId(item.object.object()));
    return absl::OkStatus();
  }
  return SetAttributes(item, item.object, true);
}

// True where what is at the name is the object already.
absl::StatusOr<bool> TreeBuilder::Keep(const Item& item, int dir_fd,
                                       const std::string& name) const {
  UniqueFd fd(openat(dir_fd, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return false;
    return Errno("open", name);
  }
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Errno("stat", name);
  const SnapshotObject& object = item.object;
  if (KindOf(st.st_mode) != object.kind()) return false;
  if (item.placed) return st.st_ino == item.inode;
  if (inodes_.contains(st.st_ino)) return false;  // another object's
  if (IsDevice(object.kind())) return EncodeDevice(st.st_rdev) == object.rdev();
  if (object.kind() == OBJECT_KIND_SYMLINK) {
    char target[PATH_MAX];
    const ssize_t n = readlinkat(fd.get(), "", target, sizeof target);
    if (n < 0) return Errno("readlink", name);
    return std::string(target, n) == object.symlink_target();
  }
  if (object.kind() != OBJECT_KIND_FILE) return true;
  if (static_cast<uint64_t>(st.st_size) != object.size() || object.content_xxh3().empty()) {
    return false;
  }
  UniqueFd content(openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!content) return Errno("open", name);
  if (fgetxattr(content.get(), kMark, nullptr, 0) >= 0) return false;
  auto digest = DigestContent(content.get(), st.st_size);
  if (!digest.ok()) return digest.status();
  return digest->content == object.content_xxh3();
}

absl::Status TreeBuilder::Make(Item& item, int dir_fd, const std::string& name) {
  const SnapshotObject& object = item.object;
  int result = -1;
  switch (object.kind()) {
    case OBJECT_KIND_DIRECTORY:
      result = mkdirat(dir_fd, name.c_str(), 0700);
      break;
    case OBJECT_KIND_SYMLINK:
      result = symlinkat(object.symlink_target().c_str(), dir_fd, name.c_str());
      break;
    case OBJECT_KIND_FILE: {
      UniqueFd fd(openat(dir_fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
      if (!fd) break;
      result = 0;
      item.wanted = object.size() > 0;
      // Where marks cannot be kept, an interrupted fetch leaves its half file to be set aside.
      if (item.wanted) (void)fsetxattr(fd.get(), kMark, "1", 1, 0);
      break;
    }
    case OBJECT_KIND_FIFO:
      result = mknodat(dir_fd, name.c_str(), S_IFIFO | 0600, 0);
      break;
    case OBJECT_KIND_SOCKET:
      result = mknodat(dir_fd, name.c_str(), S_IFSOCK | 0600, 0);
      break;
    case OBJECT_KIND_CHARACTER_DEVICE:
      result = mknodat(dir_fd, name.c_str(), S_IFCHR | 0600, DecodeDevice(object.rdev()));
      break;
    case OBJECT_KIND_BLOCK_DEVICE:
      result = mknodat(dir_fd, name.c_str(), S_IFBLK | 0600, DecodeDevice(object.rdev()));
      break;
    default:
      return absl::InvalidArgumentError("snapshot: unknown kind");
  }
  return result == 0 ? absl::OkStatus() : Errno("create", name);
}

absl::Status TreeBuilder::SetAside(int dir_fd, const std::string& name, const std::string& path) {
  struct stat st;
  if (fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Errno("stat", path);
  }
  if (S_ISREG(st.st_mode)) {
    UniqueFd fd(openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (fd && fgetxattr(fd.get(), kMark, nullptr, 0) >= 0) {
      // Our own half-fetched file.
      return unlinkat(dir_fd, name.c_str(), 0) == 0 ? absl::OkStatus() : Errno("unlink", path);
    }
  }
  if (absl::Status status = MakeParents(aside_, path); !status.ok()) return status;
  const std::string target = absl::StrCat(aside_, "/", path);
  if (renameat2(dir_fd, name.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0) {
    return Errno(absl::StrCat("move to ", aside_, ":"), path);
  }
  ++set_aside_;
  return absl::OkStatus();
}

absl::Status TreeBuilder::Remember(Item& item, int dir_fd, const std::string& name) {
  struct stat st;
  const int result =
      name.empty() ? fstat(dir_fd, &st) : fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW);
  if (result != 0) return Errno("stat", name);
  auto handle = lower_.HandleAt(dir_fd, name);
  if (!handle.ok()) return handle.status();
  item.handle = *std::move(handle);
  item.inode = st.st_ino;
  item.placed = true;
  inodes_.insert(st.st_ino);
  return absl::OkStatus();
}

absl::Status TreeBuilder::SetAttributes(const Item& item, const SnapshotObject& object,
                                        bool with_mtime) const {
  auto fd = lower_.OpenObject(item.handle, O_PATH);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "fstat");
  const record::v1::Attributes& attributes = object.attributes();
  if (st.st_uid != attributes.uid() || st.st_gid != attributes.gid()) {
    if (fchownat(fd->get(), "", attributes.uid(), attributes.gid(), AT_EMPTY_PATH) != 0) {
      return StatusFromErrno(errno, "chown");
    }
  }
  if (absl::Status status = SetXattrs(fd->get(), object); !status.ok()) return status;
  // Last, since owner and ACL change it.
  if (!S_ISLNK(st.st_mode) &&
      chmod(DescriptorPath(fd->get()).c_str(), attributes.mode() & 07777) != 0) {
    return StatusFromErrno(errno, "chmod");
  }
  if (!with_mtime) return absl::OkStatus();
  const struct timespec times[2] = {{0, UTIME_OMIT}, FromProto(attributes.mtime())};
  if (utimensat(fd->get(), "", times, AT_EMPTY_PATH) != 0) {
    return StatusFromErrno(errno, "utimensat");
  }
  return absl::OkStatus();
}

absl::Status TreeBuilder::Write(const forwarder::v1::Chunk& chunk) {
  const auto item = items_.find(chunk.object());
  if (item == items_.end() || !item->second.wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("snapshot: content of object ", chunk.object(), " was not asked for"));
  }
  auto bytes = OpenChunk(chunk);
  if (!bytes.ok()) return bytes.status();
  if (chunk.offset() > static_cast<uint64_t>(INT64_MAX) - bytes->size()) {
    return absl::InvalidArgumentError("snapshot: offset of a chunk");
  }
  if (open_object_ != chunk.object()) {
    auto fd = lower_.OpenObject(item->second.handle, O_WRONLY);
    if (!fd.ok()) return fd.status();
    open_fd_ = *std::move(fd);
    open_object_ = chunk.object();
  }
  for (size_t done = 0; done < bytes->size();) {
    const ssize_t n = pwrite(open_fd_.get(), bytes->data() + done, bytes->size() - done,
                             static_cast<off_t>(chunk.offset() + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return StatusFromErrno(errno, "pwrite");
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::Status TreeBuilder::End(const forwarder::v1::ObjectEnd& end) {
  const auto found = items_.find(end.object().object());
  if (found == items_.end() || !found->second.wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("snapshot: object ", end.object().object(), " was not asked for"));
  }
  Item& item = found->second;
  auto fd = lower_.OpenObject(item.handle, O_WRONLY);
  if (!fd.ok()) return fd.status();
  const uint64_t size = end.gone() ? 0 : end.object().size();
  if (size > static_cast<uint64_t>(INT64_MAX) ||
      ftruncate(fd->get(), static_cast<off_t>(size)) != 0) {
    return StatusFromErrno(errno, "ftruncate");
  }
  item.wanted = false;
  open_fd_ = UniqueFd();
  open_object_ = 0;
  // Its other attributes too, the mark's removal among them.
  return SetAttributes(item, end.gone() ? item.object : end.object(), true);
}

absl::Status TreeBuilder::Finish() {
  for (const auto& [id, path] : directories_) {
    if (absl::Status status = SetAttributes(items_[id], items_[id].object, true); !status.ok()) {
      return status;
    }
  }
  if (syncfs(lower_.root_fd()) != 0) return StatusFromErrno(errno, "syncfs");
  return absl::OkStatus();
}

absl::Status TreeBuilder::ForEachRow(
    const std::function<absl::Status(ObjectId, const storage::v1::ObjectRow&,
                                     const SnapshotObject&)>& visit) const {
  for (const uint64_t id : order_) {
    const Item& item = items_.at(id);
    storage::v1::ObjectRow row;
    row.set_kind(item.object.kind());
    row.set_handle_type(item.handle.type);
    row.set_handle(item.handle.bytes);
    row.set_inode(item.inode);
    row.set_data_version(item.object.data_version());
    row.set_attributes_version(item.object.attributes_version());
    for (const auto& link : item.object.links()) {
      storage::v1::LinkRow& out = *row.add_links();
      out.set_parent(link.parent());
      out.set_name(link.name());
    }
    if (absl::Status status = visit(ObjectId(id), row, item.object); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::sidecar
