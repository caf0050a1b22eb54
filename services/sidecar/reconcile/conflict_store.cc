#include "services/sidecar/reconcile/conflict_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

constexpr size_t kCopyPiece = 64 << 20;

absl::Status Failed(const std::string& what) {
  return StatusFromErrno(errno, absl::StrCat("conflict store: ", what));
}

// Makes the file complete and synced under its name.
absl::Status Publish(const std::string& temporary, const std::string& path, int fd) {
  if (fsync(fd) != 0) return Failed(temporary);
  if (rename(temporary.c_str(), path.c_str()) != 0) return Failed(path);
  const std::string parent = std::filesystem::path(path).parent_path();
  UniqueFd dir(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || fsync(dir.get()) != 0) return Failed(parent);
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  const std::string temporary = path + ".new";
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Failed(temporary);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno != EINTR) return Failed(temporary);
    if (n > 0) done += static_cast<size_t>(n);
  }
  return Publish(temporary, path, fd.get());
}

// The ranges that hold data, so that holes stay holes.
absl::Status CopyData(int from, int to, off_t size) {
  if (ftruncate(to, size) != 0) return Failed("sizing a local version");
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    off_t hole = data < 0 ? size : lseek(from, data, SEEK_HOLE);
    if (data < 0) data = at;
    if (hole < 0 || hole > size) hole = size;
    while (data < hole) {
      off_t out = data;
      const ssize_t n =
          copy_file_range(from, &data, to, &out, std::min<size_t>(kCopyPiece, hole - data), 0);
      if (n < 0) return Failed("copying a local version");
      if (n == 0) return absl::OkStatus();  // it became shorter
    }
    at = hole;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConflictStore>> ConflictStore::Open(const std::string& dir) {
  std::error_code error;
  for (const char* part : {"/local", "/log"}) {
    std::filesystem::create_directories(dir + part, error);
    if (error) return StatusFromErrno(error.value(), absl::StrCat("conflict store ", dir, part));
  }
  return std::unique_ptr<ConflictStore>(new ConflictStore(dir));
}

std::string ConflictStore::LocalPath(ObjectId object) const {
  return absl::StrCat(dir_, "/local/", object.value());
}

absl::Status ConflictStore::KeepLocalVersion(ObjectId object, int fd) {
  if (HasLocalVersion(object)) return absl::OkStatus();
  struct stat st;
  if (fstat(fd, &st) != 0) return Failed("fstat");
  absl::StatusOr<std::vector<record::v1::Xattr>> xattrs = ReadXattrs(fd);
  if (!xattrs.ok()) return xattrs.status();
  record::v1::CreateOp meta;
  meta.set_kind(record::v1::OBJECT_KIND_FILE);
  *meta.mutable_attributes() = AttributesOf(st);
  for (record::v1::Xattr& xattr : *xattrs) *meta.add_xattrs() = std::move(xattr);

  const std::string path = LocalPath(object);
  const std::string temporary = path + ".new";
  UniqueFd copy(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!copy) return Failed(temporary);
  if (absl::Status status = CopyData(fd, copy.get(), st.st_size); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  if (absl::Status status = WriteFile(path + ".meta", meta.SerializeAsString()); !status.ok()) {
    return status;
  }
  return Publish(temporary, path, copy.get());
}

bool ConflictStore::HasLocalVersion(ObjectId object) const {
  return access(LocalPath(object).c_str(), F_OK) == 0;
}

absl::Status ConflictStore::DropLocalVersions() {
  std::error_code error;
  std::filesystem::remove_all(dir_ + "/local", error);
  if (!error) std::filesystem::create_directories(dir_ + "/local", error);
  if (error) return StatusFromErrno(error.value(), "conflict store: dropping local versions");
  return absl::OkStatus();
}

absl::StatusOr<record::v1::CreateOp> ConflictStore::LocalAttributes(ObjectId object) const {
  const std::string path = LocalPath(object) + ".meta";
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Failed(path);
  record::v1::CreateOp meta;
  if (!meta.ParseFromFileDescriptor(fd.get())) {
    return absl::DataLossError(absl::StrCat("conflict store: ", path, " is not readable"));
  }
  return meta;
}

absl::StatusOr<UniqueFd> ConflictStore::OpenLocalVersion(ObjectId object) const {
  UniqueFd fd(open(LocalPath(object).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Failed(LocalPath(object));
  return fd;
}

absl::Status ConflictStore::Log(uint64_t origin_seq, const storage::v1::ConflictRow& row) {
  return WriteFile(absl::StrCat(dir_, "/log/", origin_seq), row.SerializeAsString());
}

}  // namespace intermezzo::sidecar
