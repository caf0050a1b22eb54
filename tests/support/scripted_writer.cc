#include "tests/support/scripted_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/synchronization/notification.h"
#include "services/common/status/errno.h"

namespace intermezzo::tests {

using sidecar::Replica;
using sidecar::UniqueFd;

std::string ScriptedWriter::Path(const std::string& name) const {
  return replica_->lower().root() + "/" + name;
}

int ScriptedWriter::Update(const std::function<int()>& work) {
  struct Pending {
    absl::Notification done;
    int error = 0;
  } pending;
  Replica& replica = *replica_;
  replica.gate().EnterOrPark([&](absl::Status status) {
    if (status.ok()) {
      pending.error = work();
      replica.gate().Leave();
    } else {
      pending.error = ErrnoFromStatus(status);
    }
    pending.done.Notify();
  });
  pending.done.WaitForNotification();
  return pending.error;
}

int ScriptedWriter::Create(const std::string& name) {
  Replica& replica = *replica_;
  return Update([&] {
    absl::MutexLock lock(&replica.update_lock());
    UniqueFd fd(open(Path(name).c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
    if (!fd) return errno;
    return ErrnoFromStatus(replica.Created(kRootObject, replica.lower().root_fd(), name).status());
  });
}

int ScriptedWriter::WriteInside(const std::string& name, uint64_t offset, bool append,
                                const std::string& bytes) {
  Replica& replica = *replica_;
  {
    absl::MutexLock lock(&replica.update_lock());
    UniqueFd fd(open(Path(name).c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
    if (fd) {
      const auto made = replica.Created(kRootObject, replica.lower().root_fd(), name);
      if (!made.ok()) return ErrnoFromStatus(made.status());
    } else if (errno != EEXIST) {
      return errno;
    }
  }
  UniqueFd fd(open(Path(name).c_str(), O_RDWR | O_CLOEXEC));
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0) return errno;
  const ObjectId object = replica.db().ByInode(st.st_ino);
  {
    absl::MutexLock lock(&replica.DataLock(object));
    if (append) offset = static_cast<uint64_t>(lseek(fd.get(), 0, SEEK_END));
    const ssize_t n = pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n != static_cast<ssize_t>(bytes.size())) return errno;
    replica.Wrote(object, offset, bytes.size());
  }
  return ErrnoFromStatus(replica.CutInline(object));
}

int ScriptedWriter::Write(const std::string& name, uint64_t offset, const std::string& bytes) {
  return Update([&] { return WriteInside(name, offset, false, bytes); });
}

int ScriptedWriter::Append(const std::string& name, const std::string& bytes) {
  return Update([&] { return WriteInside(name, 0, true, bytes); });
}

int ScriptedWriter::Unlink(const std::string& name) {
  Replica& replica = *replica_;
  return Update([&] {
    absl::MutexLock lock(&replica.update_lock());
    if (unlink(Path(name).c_str()) != 0) return errno;
    return ErrnoFromStatus(replica.Removed(kRootObject, replica.lower().root_fd(), name));
  });
}

std::string ScriptedWriter::Read(const std::string& name) const {
  std::ifstream file(Path(name));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace intermezzo::tests
