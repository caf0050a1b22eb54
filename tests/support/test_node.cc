#include "tests/support/test_node.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "tests/support/faulty_node_db.h"

namespace intermezzo::tests {

using sidecar::Replica;
using sidecar::UniqueFd;

struct TestNode::Place {
  UniqueFd fd;
  ObjectId id;
  std::string name;
};

namespace {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "test node: %s\n", status.ToString().c_str());
  std::abort();
}

ObjectId IdOfFd(Replica& replica, int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return ObjectId();
  return replica.db().ByInode(st.st_ino);
}

}  // namespace

TestNode::TestNode(uint64_t ordinal, const std::function<void(const std::string&)>& prepare)
    : ordinal_(ordinal), lower_path_(dir_.path() + "/lower") {
  std::filesystem::create_directory(lower_path_);
  if (prepare) prepare(lower_path_);
  // Roots start equal, whenever they were made.
  const timespec epoch[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  utimensat(AT_FDCWD, lower_path_.c_str(), epoch, 0);
  Reopen();
}

Replica::Options TestNode::Options() const {
  return {.collection = *CollectionName::Parse("www"),
          .collection_uid = 7,
          .node = *NodeName::Parse(absl::StrCat("node", ordinal_)),
          .instance = absl::StrCat("instance-", ordinal_),
          .ordinal = Ordinal(ordinal_)};
}

absl::StatusOr<std::unique_ptr<Replica>> TestNode::TryOpen(Replica::Options options) {
  auto lower = sidecar::LowerTree::Open(lower_path_);
  if (!lower.ok()) return lower.status();
  auto db = sidecar::NodeDb::Open(db_path());
  if (!db.ok()) return db.status();
  return Replica::Open(
      std::move(options), *std::move(lower),
      std::make_unique<FaultyNodeDb>(*std::move(db), &commit_failure_, &before_commit_));
}

void TestNode::Reopen() {
  replica_.reset();
  auto replica = TryOpen(Options());
  Require(replica.status());
  replica_ = *std::move(replica);
  replica_->gate().Open({Epoch(1)});
}

ObjectId TestNode::IdOf(const std::string& path) {
  UniqueFd fd(open(Path(path).c_str(), O_PATH | O_NOFOLLOW));
  return fd ? IdOfFd(*replica_, fd.get()) : ObjectId();
}

template <typename Work>
int TestNode::Update(const Work& work) {
  if (!replica_->gate().TryEnter()) return EROFS;
  int error;
  {
    absl::MutexLock lock(&replica_->update_lock());
    error = work();
  }
  replica_->gate().Leave();
  return error;
}

namespace {

template <typename Place>
int OpenPlace(Replica& replica, const std::string& root, const std::string& path, Place& place) {
  const size_t slash = path.rfind('/');
  const std::string dir = slash == std::string::npos ? root : root + "/" + path.substr(0, slash);
  place.name = slash == std::string::npos ? path : path.substr(slash + 1);
  place.fd = UniqueFd(open(dir.c_str(), O_RDONLY | O_DIRECTORY));
  if (!place.fd) return errno;
  place.id = IdOfFd(replica, place.fd.get());
  return 0;
}

}  // namespace

template <typename Make>
int TestNode::MakeNew(const std::string& path, const Make& make) {
  return Update([&] {
    Place place;
    if (int error = OpenPlace(*replica_, lower_path_, path, place)) return error;
    if (make(place.fd.get(), place.name.c_str()) != 0) return errno;
    return ErrnoFromStatus(replica_->Created(place.id, place.fd.get(), place.name).status());
  });
}

int TestNode::Create(const std::string& path, mode_t mode) {
  return MakeNew(path, [&](int dir, const char* name) {
    UniqueFd fd(openat(dir, name, O_CREAT | O_EXCL | O_WRONLY, mode));
    return fd ? fchmod(fd.get(), mode) : -1;
  });
}

int TestNode::Mkdir(const std::string& path, mode_t mode) {
  return MakeNew(path, [&](int dir, const char* name) { return mkdirat(dir, name, mode); });
}

int TestNode::Mknod(const std::string& path, mode_t mode, dev_t device) {
  return MakeNew(path, [&](int dir, const char* name) { return mknodat(dir, name, mode, device); });
}

int TestNode::Symlink(const std::string& target, const std::string& path) {
  return MakeNew(path,
                 [&](int dir, const char* name) { return symlinkat(target.c_str(), dir, name); });
}

int TestNode::Link(const std::string& from, const std::string& path) {
  return Update([&] {
    Place place;
    if (int error = OpenPlace(*replica_, lower_path_, path, place)) return error;
    UniqueFd object(open(Path(from).c_str(), O_PATH | O_NOFOLLOW));
    if (!object) return errno;
    const ObjectId id = IdOfFd(*replica_, object.get());
    if (linkat(object.get(), "", place.fd.get(), place.name.c_str(), AT_EMPTY_PATH) != 0) {
      return errno;
    }
    return ErrnoFromStatus(replica_->Linked(id, place.id, place.fd.get(), place.name));
  });
}

int TestNode::Unlink(const std::string& path) {
  return Update([&] {
    Place place;
    if (int error = OpenPlace(*replica_, lower_path_, path, place)) return error;
    if (unlinkat(place.fd.get(), place.name.c_str(), 0) != 0) return errno;
    return ErrnoFromStatus(replica_->Removed(place.id, place.fd.get(), place.name));
  });
}

int TestNode::Rmdir(const std::string& path) {
  return Update([&] {
    Place place;
    if (int error = OpenPlace(*replica_, lower_path_, path, place)) return error;
    if (unlinkat(place.fd.get(), place.name.c_str(), AT_REMOVEDIR) != 0) return errno;
    return ErrnoFromStatus(replica_->Removed(place.id, place.fd.get(), place.name));
  });
}

int TestNode::Rename(const std::string& from, const std::string& to, unsigned flags) {
  return Update([&] {
    Place source;
    Place target;
    if (int error = OpenPlace(*replica_, lower_path_, from, source)) return error;
    if (int error = OpenPlace(*replica_, lower_path_, to, target)) return error;
    if (ObjectId object = IdOf(from)) {
      if (int error = ErrnoFromStatus(replica_->CutBefore(object))) return error;
    }
    if (syscall(SYS_renameat2, source.fd.get(), source.name.c_str(), target.fd.get(),
                target.name.c_str(), flags) != 0) {
      const int error = errno;
      // ext4 leaves a new time on the directory where a rename with a whiteout fails.
      if (flags & RENAME_WHITEOUT) {
        Require(replica_->AttributesSet(source.id, source.fd.get(), false));
      }
      return error;
    }
    return ErrnoFromStatus(replica_->Renamed(source.id, source.fd.get(), source.name, target.id,
                                             target.fd.get(), target.name, flags));
  });
}

int TestNode::Write(const std::string& path, uint64_t offset, const std::string& bytes) {
  if (!replica_->gate().TryEnter()) return EROFS;
  int error = 0;
  {
    UniqueFd fd(open(Path(path).c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK));
    if (!fd) {
      error = errno;
    } else {
      const ObjectId id = IdOfFd(*replica_, fd.get());
      absl::MutexLock lock(&replica_->DataLock(id));
      const ssize_t n = pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0) {
        error = errno;
      } else {
        replica_->Wrote(id, offset, static_cast<uint64_t>(n));
      }
    }
  }
  replica_->gate().Leave();
  return error;
}

template <typename Change, typename Capture>
int TestNode::ChangeObject(const std::string& path, const Change& change, const Capture& capture) {
  return Update([&] {
    UniqueFd fd(open(Path(path).c_str(), O_PATH | O_NOFOLLOW));
    if (!fd) return errno;
    const ObjectId id = IdOfFd(*replica_, fd.get());
    if (change(fd.get(), id) != 0) return errno;
    return ErrnoFromStatus(capture(id, fd.get()));
  });
}

int TestNode::Truncate(const std::string& path, uint64_t size) {
  return ChangeObject(
      path,
      [&](int fd, ObjectId id) {
        Require(replica_->CutBefore(id));
        return truncate(sidecar::DescriptorPath(fd).c_str(), static_cast<off_t>(size));
      },
      [&](ObjectId id, int fd) { return replica_->Truncated(id, fd, size); });
}

int TestNode::Fallocate(const std::string& path, int mode, uint64_t offset, uint64_t length) {
  return ChangeObject(
      path,
      [&](int fd, ObjectId id) {
        UniqueFd file(open(sidecar::DescriptorPath(fd).c_str(), O_WRONLY | O_NONBLOCK));
        if (!file) return -1;
        Require(replica_->CutBefore(id));
        return fallocate(file.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length));
      },
      [&](ObjectId id, int fd) { return replica_->Allocated(id, fd, mode, offset, length); });
}

int TestNode::Chmod(const std::string& path, mode_t mode) {
  return ChangeObject(
      path, [&](int fd, ObjectId) { return chmod(sidecar::DescriptorPath(fd).c_str(), mode); },
      [&](ObjectId id, int fd) { return replica_->AttributesSet(id, fd, false); });
}

int TestNode::Chown(const std::string& path, uid_t uid, gid_t gid) {
  return ChangeObject(
      path, [&](int fd, ObjectId) { return fchownat(fd, "", uid, gid, AT_EMPTY_PATH); },
      [&](ObjectId id, int fd) { return replica_->AttributesSet(id, fd, false); });
}

int TestNode::Utimens(const std::string& path, timespec atime, timespec mtime) {
  return ChangeObject(
      path,
      [&](int fd, ObjectId) {
        const timespec times[2] = {atime, mtime};
        return utimensat(fd, "", times, AT_EMPTY_PATH);
      },
      [&](ObjectId id, int fd) { return replica_->AttributesSet(id, fd, true); });
}

int TestNode::Setxattr(const std::string& path, const std::string& name, const std::string& value) {
  return ChangeObject(
      path,
      [&](int fd, ObjectId) {
        return setxattr(sidecar::DescriptorPath(fd).c_str(), name.c_str(), value.data(),
                        value.size(), 0);
      },
      [&](ObjectId id, int fd) { return replica_->XattrSet(id, fd, name); });
}

int TestNode::Removexattr(const std::string& path, const std::string& name) {
  return ChangeObject(
      path,
      [&](int fd, ObjectId) {
        return removexattr(sidecar::DescriptorPath(fd).c_str(), name.c_str());
      },
      [&](ObjectId id, int fd) { return replica_->XattrRemoved(id, fd, name); });
}

}  // namespace intermezzo::tests
