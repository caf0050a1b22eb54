// A replica over a real directory, with the operations of a file system driver on it: each enters
// the gate, does the lower operation and captures it, as presto does.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "services/sidecar/replica/replica.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::tests {

// Operations take paths relative to the lower root and return 0 or an errno. One thread, or many.
class TestNode {
 public:
  // The gate is open with epoch 1 afterwards. `prepare` gets the lower directory's path before
  // anything is in it (to mount something there).
  explicit TestNode(uint64_t ordinal,
                    const std::function<void(const std::string&)>& prepare = nullptr);

  sidecar::Replica& replica() { return *replica_; }
  const std::string& lower_path() const { return lower_path_; }
  std::string Path(const std::string& path) const { return lower_path_ + "/" + path; }
  // While this is an error, commits fail with it and write nothing.
  absl::Status& commit_failure() { return commit_failure_; }
  // Called before every commit, where it is set.
  std::function<void()>& before_commit() { return before_commit_; }
  // Stops the replica and opens it again.
  void Reopen();
  void Close() { replica_.reset(); }
  absl::StatusOr<std::unique_ptr<sidecar::Replica>> TryOpen(sidecar::Replica::Options options);
  sidecar::Replica::Options Options() const;
  std::string db_path() const { return dir_.path() + "/db"; }
  ObjectId IdOf(const std::string& path);

  int Create(const std::string& path, mode_t mode);
  int Mkdir(const std::string& path, mode_t mode);
  int Mknod(const std::string& path, mode_t mode, dev_t device);
  int Symlink(const std::string& target, const std::string& path);
  int Link(const std::string& from, const std::string& path);
  int Unlink(const std::string& path);
  int Rmdir(const std::string& path);
  int Rename(const std::string& from, const std::string& to, unsigned flags = 0);
  int Write(const std::string& path, uint64_t offset, const std::string& bytes);
  int Truncate(const std::string& path, uint64_t size);
  int Fallocate(const std::string& path, int mode, uint64_t offset, uint64_t length);
  int Chmod(const std::string& path, mode_t mode);
  int Chown(const std::string& path, uid_t uid, gid_t gid);
  int Utimens(const std::string& path, timespec atime, timespec mtime);
  int Setxattr(const std::string& path, const std::string& name, const std::string& value);
  int Removexattr(const std::string& path, const std::string& name);

 private:
  struct Place;  // an opened parent directory and a name in it
  // Enters the gate, takes the update lock, runs `work`, leaves.
  template <typename Work>
  int Update(const Work& work);
  template <typename Make>
  int MakeNew(const std::string& path, const Make& make);
  template <typename Change, typename Capture>
  int ChangeObject(const std::string& path, const Change& change, const Capture& capture);

  const uint64_t ordinal_;
  const TempDir dir_;
  const std::string lower_path_;
  absl::Status commit_failure_;
  std::function<void()> before_commit_;
  std::unique_ptr<sidecar::Replica> replica_;
};

}  // namespace intermezzo::tests
