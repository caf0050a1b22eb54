#include "tests/support/mounted_replica.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace intermezzo::tests {
namespace {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "mounted replica: %s\n", status.ToString().c_str());
  std::abort();
}

}  // namespace

MountedReplica::MountedReplica(Options options) : options_(std::move(options)) {
  std::string pattern = (options_.parent.empty() ? std::filesystem::temp_directory_path().string()
                                                 : options_.parent) +
                        "/intermezzo-mount-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  dir_ = pattern;
  chmod(dir_.c_str(), 0755);
  lower_ = dir_ + "/lower";
  mount_ = dir_ + "/mnt";
  for (const std::string& each : {lower_, mount_}) {
    std::filesystem::create_directory(each);
    chmod(each.c_str(), 0755);
  }
  auto lower = sidecar::LowerTree::Open(lower_);
  Require(lower.status());
  auto db = sidecar::NodeDb::Open(dir_ + "/db");
  Require(db.status());
  auto replica =
      sidecar::Replica::Open({.collection = *CollectionName::Parse("www"),
                              .collection_uid = 7,
                              .node = *NodeName::Parse(absl::StrCat("node", options_.ordinal)),
                              .instance = absl::StrCat("instance-", options_.ordinal),
                              .ordinal = Ordinal(options_.ordinal),
                              .run = {}},
                             *std::move(lower), *std::move(db));
  Require(replica.status());
  replica_ = *std::move(replica);
  auto presto = sidecar::FusePresto::Create({.mount_point = mount_,
                                             .threads = options_.threads,
                                             .answer_opens = options_.answer_opens,
                                             .max_open_files = options_.max_open_files,
                                             .parked_bytes = options_.parked_bytes,
                                             .spill_bytes = options_.spill_bytes,
                                             .spill_dir = dir_,
                                             .metrics = options_.metrics},
                                            replica_.get());
  Require(presto.status());
  presto_ = *std::move(presto);
  replica_->SetPresto(presto_.get());
  if (options_.open) OpenGate();
  StartGuard();  // before the mount: it must not keep /dev/fuse open
  Require(presto_->Mount());
}

MountedReplica::~MountedReplica() {
  Unmount();
  replica_->SetPresto(nullptr);
  presto_.reset();
  replica_.reset();
  close(guard_pipe_);
  waitpid(guard_, nullptr, 0);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

void MountedReplica::StartGuard() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  guard_ = fork();
  if (guard_ == 0) {
    close(ends[1]);
    struct pollfd gone = {.fd = ends[0], .events = POLLIN, .revents = 0};
    const int limit = static_cast<int>(absl::ToInt64Milliseconds(options_.limit));
    if (poll(&gone, 1, limit) == 0) fprintf(stderr, "test took too long: aborting its mount\n");
    umount2(mount_.c_str(), MNT_FORCE | MNT_DETACH);
    _exit(0);
  }
  close(ends[0]);
  guard_pipe_ = ends[1];
}

absl::Status MountedReplica::Mount() { return presto_->Mount(); }

void MountedReplica::Unmount() { presto_->Unmount(absl::Seconds(2)); }

void MountedReplica::CloseGate() {
  replica_->gate().Close();
  Require(replica_->gate().WaitDrained(absl::Seconds(30)));
  Require(replica_->CutAll());
}

std::vector<record::v1::Entry> MountedReplica::Records() {
  Require(replica_->CutAll());
  std::vector<record::v1::Entry> entries;
  uint64_t after = 0;
  while (true) {
    auto batch = replica_->db().ReadLocal(after, 1000, 64 << 20);
    if (batch.empty()) return entries;
    after = batch.back().first;
    for (auto& [seq, entry] : batch) entries.push_back(std::move(entry));
  }
}

int InChild(const std::function<int()>& work, uid_t uid, gid_t gid,
            const std::vector<gid_t>& groups) {
  fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (uid != 0 || gid != 0) {
      if (setgroups(groups.size(), groups.data()) != 0 || setresgid(gid, gid, gid) != 0 ||
          setresuid(uid, uid, uid) != 0) {
        _exit(251);
      }
    }
    _exit(work());
  }
  if (pid < 0) return 252;
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  struct pollfd ready = {.fd = pidfd, .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, 60'000) <= 0) {
    kill(pid, SIGKILL);
    fprintf(stderr, "child %d took too long\n", pid);
  }
  close(pidfd);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

int WriteFile(const std::string& path, const std::string& bytes) {
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return errno;
  int error = 0;
  for (size_t done = 0; done < bytes.size() && error == 0;) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0) {
      error = errno;
    } else {
      done += n;
    }
  }
  if (close(fd) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace intermezzo::tests
