// One of the two trees that the generator works on: a root directory and a few open files.
//
// Every operation gives a Result, which is the same on both trees where the mount behaves as the
// file system below it does. Runs in one thread of a process of its own, which changes its
// effective user for operations of other callers.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace intermezzo::tests {

// Who makes an operation.
struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  mode_t umask = 022;
};

struct Result {
  int error = 0;
  // What else the operation says: bytes read, attributes, names.
  std::string detail;
  friend bool operator==(const Result&, const Result&) = default;
};

class Side {
 public:
  static constexpr int kSlots = 6;

  explicit Side(std::string root) : root_(std::move(root)) { slots_.fill(-1); }
  ~Side();
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  // Acts as `caller` until Return().
  static void Become(const Caller& caller);
  static void Return();

  Result Mkdir(const std::string& path, mode_t mode);
  Result Mknod(const std::string& path, mode_t mode, dev_t device);
  Result Symlink(const std::string& target, const std::string& path);
  Result Link(const std::string& from, const std::string& to);
  Result Unlink(const std::string& path);
  Result Rmdir(const std::string& path);
  Result Rename(const std::string& from, const std::string& to, unsigned flags);
  Result Chmod(const std::string& path, mode_t mode);
  Result Chown(const std::string& path, uid_t uid, gid_t gid);
  Result Utimens(const std::string& path, const timespec times[2]);
  Result Truncate(const std::string& path, off_t size);
  Result Setxattr(const std::string& path, const std::string& name, const std::string& value,
                  int flags);
  Result Getxattr(const std::string& path, const std::string& name);
  Result Removexattr(const std::string& path, const std::string& name);
  Result Listxattr(const std::string& path);
  Result Stat(const std::string& path);
  Result Readlink(const std::string& path);
  Result List(const std::string& path);
  Result Access(const std::string& path, int mode);

  bool is_open(int slot) const { return slots_[slot] >= 0; }

  // Open files. A slot that was open is closed first.
  Result Open(int slot, const std::string& path, int flags, mode_t mode);
  // A file without a name (O_TMPFILE), and the name that it gets later.
  Result OpenNameless(int slot, const std::string& dir, int flags, mode_t mode);
  Result LinkOpen(int slot, const std::string& path);
  Result Close(int slot);
  Result Read(int slot, off_t offset, size_t size);
  Result Write(int slot, off_t offset, const std::string& bytes);  // at the end with O_APPEND
  Result Ftruncate(int slot, off_t size);
  Result Fchmod(int slot, mode_t mode);
  Result Fstat(int slot);
  Result Fsync(int slot, bool data_only);
  Result Fallocate(int slot, int mode, off_t offset, off_t length);
  Result Copy(int from, off_t in, int to, off_t out, size_t length);
  // Stores `bytes` through a shared mapping, as far as the file reaches.
  Result MapWrite(int slot, off_t offset, const std::string& bytes);

 private:
  std::string At(const std::string& path) const {
    return path.empty() ? root_ : root_ + "/" + path;
  }

  const std::string root_;
  std::array<int, kSlots> slots_;
};

}  // namespace intermezzo::tests
