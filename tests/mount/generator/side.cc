#include "tests/mount/generator/side.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

namespace intermezzo::tests {
namespace {

Result Of(ssize_t result) { return {result < 0 ? errno : 0, {}}; }

// Times are not compared: the two trees are worked on one after the other.
std::string Describe(const struct stat& st) {
  char text[160];
  snprintf(text, sizeof(text), "mode %o uid %u gid %u nlink %lu size %ld rdev %u:%u", st.st_mode,
           st.st_uid, st.st_gid, st.st_nlink, S_ISDIR(st.st_mode) ? 0 : st.st_size,
           major(st.st_rdev), minor(st.st_rdev));
  return text;
}

struct FreeDeleter {
  void operator()(char* bytes) const { free(bytes); }
};

// Aligned, so that O_DIRECT takes it.
std::unique_ptr<char, FreeDeleter> Buffer(size_t size) {
  void* bytes = nullptr;
  if (posix_memalign(&bytes, 4096, std::max<size_t>(size, 1)) != 0) abort();
  return std::unique_ptr<char, FreeDeleter>(static_cast<char*>(bytes));
}

void Must(int result) {
  if (result == 0) return;
  perror("changing the user");
  _exit(250);
}

}  // namespace

Side::~Side() {
  for (int fd : slots_) {
    if (fd >= 0) close(fd);
  }
}

void Side::Become(const Caller& caller) {
  umask(caller.umask);
  if (caller.uid == 0) return;
  Must(setgroups(caller.groups.size(), caller.groups.data()));
  Must(setegid(caller.gid));
  Must(seteuid(caller.uid));
}

void Side::Return() {
  Must(seteuid(0));
  Must(setegid(0));
  Must(setgroups(0, nullptr));
  umask(022);
}

Result Side::Mkdir(const std::string& path, mode_t mode) {
  return Of(mkdir(At(path).c_str(), mode));
}

Result Side::Mknod(const std::string& path, mode_t mode, dev_t device) {
  return Of(mknod(At(path).c_str(), mode, device));
}

Result Side::Symlink(const std::string& target, const std::string& path) {
  return Of(symlink(target.c_str(), At(path).c_str()));
}

Result Side::Link(const std::string& from, const std::string& to) {
  return Of(link(At(from).c_str(), At(to).c_str()));
}

Result Side::Unlink(const std::string& path) { return Of(unlink(At(path).c_str())); }

Result Side::Rmdir(const std::string& path) { return Of(rmdir(At(path).c_str())); }

Result Side::Rename(const std::string& from, const std::string& to, unsigned flags) {
  return Of(renameat2(AT_FDCWD, At(from).c_str(), AT_FDCWD, At(to).c_str(), flags));
}

Result Side::Chmod(const std::string& path, mode_t mode) {
  return Of(chmod(At(path).c_str(), mode));
}

Result Side::Chown(const std::string& path, uid_t uid, gid_t gid) {
  return Of(lchown(At(path).c_str(), uid, gid));
}

Result Side::Utimens(const std::string& path, const timespec times[2]) {
  if (utimensat(AT_FDCWD, At(path).c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return Of(-1);
  struct stat st;
  if (lstat(At(path).c_str(), &st) != 0) return Of(-1);
  std::string detail;
  for (auto [given, got] : {std::pair(times[0], st.st_atim), std::pair(times[1], st.st_mtim)}) {
    const bool exact = given.tv_nsec != UTIME_NOW && given.tv_nsec != UTIME_OMIT;
    detail += exact ? std::to_string(got.tv_sec) + "." + std::to_string(got.tv_nsec) + " " : "- ";
  }
  return {0, detail};
}

Result Side::Truncate(const std::string& path, off_t size) {
  return Of(truncate(At(path).c_str(), size));
}

Result Side::Setxattr(const std::string& path, const std::string& name, const std::string& value,
                      int flags) {
  return Of(lsetxattr(At(path).c_str(), name.c_str(), value.data(), value.size(), flags));
}

Result Side::Getxattr(const std::string& path, const std::string& name) {
  std::string value(65536, '\0');
  const ssize_t n = lgetxattr(At(path).c_str(), name.c_str(), value.data(), value.size());
  if (n < 0) return Of(n);
  value.resize(n);
  return {0, value};
}

Result Side::Removexattr(const std::string& path, const std::string& name) {
  return Of(lremovexattr(At(path).c_str(), name.c_str()));
}

Result Side::Listxattr(const std::string& path) {
  std::string list(65536, '\0');
  const ssize_t n = llistxattr(At(path).c_str(), list.data(), list.size());
  if (n < 0) return Of(n);
  std::vector<std::string> names;
  for (ssize_t at = 0; at < n; at += names.back().size() + 1) names.push_back(list.data() + at);
  std::sort(names.begin(), names.end());
  std::string detail;
  for (const std::string& name : names) detail += name + " ";
  return {0, detail};
}

Result Side::Stat(const std::string& path) {
  struct stat st;
  if (lstat(At(path).c_str(), &st) != 0) return Of(-1);
  return {0, Describe(st)};
}

Result Side::Readlink(const std::string& path) {
  char target[4096];
  const ssize_t n = readlink(At(path).c_str(), target, sizeof(target));
  if (n < 0) return Of(n);
  return {0, std::string(target, n)};
}

Result Side::List(const std::string& path) {
  DIR* dir = opendir(At(path).c_str());
  if (dir == nullptr) return Of(-1);
  std::vector<std::string> names;
  while (dirent* each = readdir(dir)) {
    names.push_back(each->d_name + ("/" + std::to_string(each->d_type)));
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  std::string detail;
  for (const std::string& name : names) detail += name + "\n";
  return {0, detail};
}

Result Side::Access(const std::string& path, int mode) {
  return Of(faccessat(AT_FDCWD, At(path).c_str(), mode, AT_EACCESS));
}

Result Side::Open(int slot, const std::string& path, int flags, mode_t mode) {
  Close(slot);
  slots_[slot] = open(At(path).c_str(), flags | O_CLOEXEC | O_NONBLOCK, mode);
  return Of(slots_[slot]);
}

Result Side::OpenNameless(int slot, const std::string& dir, int flags, mode_t mode) {
  Close(slot);
  slots_[slot] = open(At(dir).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | flags, mode);
  return Of(slots_[slot]);
}

Result Side::LinkOpen(int slot, const std::string& path) {
  const std::string open = "/proc/self/fd/" + std::to_string(slots_[slot]);
  return Of(linkat(AT_FDCWD, open.c_str(), AT_FDCWD, At(path).c_str(), AT_SYMLINK_FOLLOW));
}

Result Side::Close(int slot) {
  const int fd = std::exchange(slots_[slot], -1);
  return fd < 0 ? Result{EBADF, {}} : Of(close(fd));
}

Result Side::Read(int slot, off_t offset, size_t size) {
  auto bytes = Buffer(size);
  const ssize_t n = pread(slots_[slot], bytes.get(), size, offset);
  if (n < 0) return Of(n);
  return {0, std::string(bytes.get(), n)};
}

Result Side::Write(int slot, off_t offset, const std::string& bytes) {
  auto aligned = Buffer(bytes.size());
  memcpy(aligned.get(), bytes.data(), bytes.size());
  const ssize_t n = pwrite(slots_[slot], aligned.get(), bytes.size(), offset);
  if (n < 0) return Of(n);
  return {0, std::to_string(n)};
}

Result Side::Ftruncate(int slot, off_t size) { return Of(ftruncate(slots_[slot], size)); }

Result Side::Fchmod(int slot, mode_t mode) { return Of(fchmod(slots_[slot], mode)); }

Result Side::Fstat(int slot) {
  struct stat st;
  if (fstat(slots_[slot], &st) != 0) return Of(-1);
  return {0, Describe(st)};
}

Result Side::Fsync(int slot, bool data_only) {
  return Of(data_only ? fdatasync(slots_[slot]) : fsync(slots_[slot]));
}

Result Side::Fallocate(int slot, int mode, off_t offset, off_t length) {
  return Of(fallocate(slots_[slot], mode, offset, length));
}

Result Side::Copy(int from, off_t in, int to, off_t out, size_t length) {
  const ssize_t n = copy_file_range(slots_[from], &in, slots_[to], &out, length, 0);
  if (n < 0) return Of(n);
  return {0, std::to_string(n)};
}

Result Side::MapWrite(int slot, off_t offset, const std::string& bytes) {
  struct stat st;
  if (fstat(slots_[slot], &st) != 0) return Of(-1);
  if (!S_ISREG(st.st_mode) || offset >= st.st_size) return {ENXIO, {}};
  const size_t length = std::min<size_t>(bytes.size(), st.st_size - offset);
  const off_t start = offset & ~off_t{4095};
  const size_t mapped = offset - start + length;
  void* map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, slots_[slot], start);
  if (map == MAP_FAILED) return Of(-1);
  memcpy(static_cast<char*>(map) + (offset - start), bytes.data(), length);
  return Of(munmap(map, mapped));
}

}  // namespace intermezzo::tests
