// A storm of file operations from a seed, for the tour.
//
//   storm DIR --seed N (--operations N | --seconds N) [--shared]
//
// Works below DIR, which it makes: creates, appends, edits in place, truncates, punches holes,
// renames (also over others, and exchanging), links, symbolic links, unlinks, xattrs, ACLs, modes,
// times, maps files and stores into them. With --shared another storm works in DIR too, so names
// may come and go between two operations; without, every unexpected errno ends it. SIGTERM ends it
// well. Prints what it did; exit 1 where an operation failed in a way it may not.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

volatile std::sig_atomic_t stopping = 0;

class Storm {
 public:
  Storm(std::string root, uint64_t seed, bool shared)
      : root_(std::move(root)), shared_(shared), random_(seed) {}

  void Begin() {
    if (mkdir(root_.c_str(), 0755) != 0 && errno != EEXIST) Fail("mkdir", root_);
    for (int i = 0; i < kDirectories; ++i) {
      const std::string path = root_ + "/d" + std::to_string(i);
      if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) Fail("mkdir", path);
    }
  }

  void Step() {
    struct Operation {
      const char* name;
      int weight;
      void (Storm::*run)();
    };
    static constexpr Operation kOperations[] = {
        {"create", 20, &Storm::Create},      {"append", 10, &Storm::Append},
        {"edit", 14, &Storm::Edit},          {"truncate", 4, &Storm::Truncate},
        {"punch", 4, &Storm::Punch},         {"rename", 10, &Storm::Rename},
        {"exchange", 3, &Storm::Exchange},   {"link", 5, &Storm::Link},
        {"symlink", 4, &Storm::Symlink},     {"unlink", 10, &Storm::Unlink},
        {"setxattr", 4, &Storm::SetXattr},   {"removexattr", 2, &Storm::RemoveXattr},
        {"acl", 2, &Storm::SetAcl},          {"chmod", 3, &Storm::Chmod},
        {"utimens", 2, &Storm::SetTimes},    {"map", 5, &Storm::Map},
        {"mkdir", 3, &Storm::MakeDirectory}, {"rmdir", 2, &Storm::RemoveDirectory},
        {"mkfifo", 1, &Storm::MakeFifo},
    };
    int total = 0;
    for (const Operation& operation : kOperations) total += operation.weight;
    int pick = Below(total);
    for (const Operation& operation : kOperations) {
      pick -= operation.weight;
      if (pick >= 0) continue;
      (this->*operation.run)();
      ++counts_[operation.name];
      return;
    }
  }

  void Report() const {
    uint64_t all = 0;
    for (const auto& [name, count] : counts_) all += count;
    std::cout << "storm: " << all << " operations:";
    for (const auto& [name, count] : counts_) std::cout << ' ' << name << ' ' << count;
    std::cout << std::endl;
  }

 private:
  static constexpr int kDirectories = 8;
  static constexpr int kNames = 40;  // per directory: renames and links meet

  [[noreturn]] static void Fail(const char* what, const std::string& path) {
    std::cerr << "storm: " << what << " " << path << ": " << strerror(errno) << std::endl;
    std::exit(1);
  }

  // Ends the storm where `failed` with an errno that no race and no state of the tree explains.
  void Check(bool failed, const char* what, const std::string& path) const {
    if (!failed) return;
    switch (errno) {
      case ENOENT:
      case EEXIST:
      case ENOTDIR:
      case EISDIR:
      case ENOTEMPTY:
      case ENODATA:
      case ELOOP:
        return;
      default:
        Fail(what, path);
    }
  }

  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  std::string Directory() { return root_ + "/d" + std::to_string(Below(kDirectories)); }
  std::string Any() { return Directory() + "/f" + std::to_string(Below(kNames)); }
  // Where files live whose mappings must not be cut under us by another storm.
  std::string Own() {
    return shared_ ? root_ + "/d0/own-" + std::to_string(getpid()) + "-" + std::to_string(Below(4))
                   : Any();
  }
  std::string Bytes(int most) {
    std::string bytes(1 + Below(most), '\0');
    for (char& c : bytes) c = static_cast<char>(random_());
    return bytes;
  }

  // Opens a regular file; -1 where there is none now.
  int Open(const std::string& path, int flags) {
    const int fd = open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    // A fifo in the way: ENXIO for a writer without a reader.
    if (fd < 0 && errno != ENXIO) Check(true, "open", path);
    if (fd < 0) return -1;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
    close(fd);
    return -1;
  }

  void Write(int fd, const std::string& bytes, off_t offset, const std::string& path) {
    if (pwrite(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
      Fail("pwrite", path);
    }
  }

  void Create() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) return;
    Write(fd, Bytes(Below(8) == 0 ? 200000 : 4000), 0, path);
    if (close(fd) != 0) Fail("close", path);
  }
  void Append() {
    const std::string path = Any();
    const int fd = Open(path, O_WRONLY | O_APPEND);
    if (fd < 0) return;
    Write(fd, Bytes(3000), 0, path);
    if (close(fd) != 0) Fail("close", path);
  }
  void Edit() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    for (int i = 1 + Below(3); i > 0; --i) Write(fd, Bytes(5000), Below(100000), path);
    if (Below(4) == 0 && fsync(fd) != 0) Fail("fsync", path);
    if (close(fd) != 0) Fail("close", path);
  }
  void Truncate() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    if (ftruncate(fd, Below(150000)) != 0) Fail("ftruncate", path);
    close(fd);
  }
  void Punch() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    // No preallocation here: when ext4 turns unwritten blocks into zeros is its own affair, and the
    // tour compares holes.
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, Below(60000), 1 + Below(60000)) !=
            0 &&
        errno != EOPNOTSUPP) {
      Fail("fallocate", path);
    }
    close(fd);
  }
  void Rename() {
    const std::string from = Any();
    Check(rename(from.c_str(), Any().c_str()) != 0, "rename", from);
  }
  void Exchange() {
    const std::string from = Any();
    Check(renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, Any().c_str(), RENAME_EXCHANGE) != 0,
          "exchange", from);
  }
  void Link() {
    const std::string from = Any();
    const bool failed = link(from.c_str(), Any().c_str()) != 0;
    if (failed && errno == EPERM) return;  // a directory
    Check(failed, "link", from);
  }
  void Symlink() {
    const std::string path = Any();
    Check(symlink(("../d1/f" + std::to_string(Below(kNames))).c_str(), path.c_str()) != 0,
          "symlink", path);
  }
  void Unlink() {
    const std::string path = Any();
    Check(unlink(path.c_str()) != 0, "unlink", path);
  }
  void SetXattr() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    const std::string value = Bytes(200);
    const std::string name = "user.storm" + std::to_string(Below(3));
    if (fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0) Fail("fsetxattr", path);
    close(fd);
  }
  void RemoveXattr() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    Check(fremovexattr(fd, ("user.storm" + std::to_string(Below(3))).c_str()) != 0, "fremovexattr",
          path);
    close(fd);
  }
  // user::rw-, user:33:r-x or so, group::r--, mask::rwx, other::r-- in the kernel's form.
  void SetAcl() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    struct Entry {
      uint16_t tag;
      uint16_t permissions;
      uint32_t id;
    };
    struct {
      uint32_t version = 2;
      Entry entries[5];
    } acl = {2,
             {{0x01, 6, UINT32_MAX},
              {0x02, static_cast<uint16_t>(Below(8)), 33},
              {0x04, 4, UINT32_MAX},
              {0x10, 7, UINT32_MAX},
              {0x20, 4, UINT32_MAX}}};
    if (fsetxattr(fd, "system.posix_acl_access", &acl, sizeof(acl), 0) != 0 &&
        errno != EOPNOTSUPP) {
      Fail("set ACL", path);
    }
    close(fd);
  }
  void Chmod() {
    const std::string path = Any();
    const int fd = Open(path, O_RDWR);
    if (fd < 0) return;
    if (fchmod(fd, 0600 | Below(0200)) != 0) Fail("fchmod", path);
    if (Below(2) == 0 && fchown(fd, Below(100), Below(100)) != 0) Fail("fchown", path);
    close(fd);
  }
  void SetTimes() {
    const std::string path = Any();
    const timespec times[2] = {{1600000000 + Below(100000000), Below(1000000000)},
                               {1600000000 + Below(100000000), Below(1000000000)}};
    Check(utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0, "utimens", path);
  }
  void Map() {
    const std::string path = Own();
    const int fd = Open(path, O_RDWR | O_CREAT);
    if (fd < 0) return;
    const size_t size = 4096 * (1 + Below(8));
    if (ftruncate(fd, size) != 0) Fail("ftruncate", path);
    void* bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) Fail("mmap", path);
    for (int i = 1 + Below(4); i > 0; --i) {
      const std::string some = Bytes(1000);
      memcpy(static_cast<char*>(bytes) + Below(static_cast<int>(size - 1000)), some.data(),
             some.size());
    }
    if (Below(2) == 0 && msync(bytes, size, MS_SYNC) != 0) Fail("msync", path);
    munmap(bytes, size);
    close(fd);
  }
  void MakeDirectory() {
    const std::string path = Any();
    Check(mkdir(path.c_str(), 0755) != 0, "mkdir", path);
  }
  void RemoveDirectory() {
    const std::string path = Any();
    Check(rmdir(path.c_str()) != 0, "rmdir", path);
  }
  void MakeFifo() {
    const std::string path = Any();
    Check(mkfifo(path.c_str(), 0644) != 0, "mkfifo", path);
  }

  const std::string root_;
  const bool shared_;
  std::mt19937_64 random_;
  std::map<std::string, uint64_t> counts_;
};

[[noreturn]] void Usage() {
  std::cerr << "usage: storm DIR --seed N (--operations N | --seconds N) [--shared]\n";
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') Usage();
  uint64_t seed = 0;
  uint64_t operations = 0;
  uint64_t seconds = 0;
  bool shared = false;
  for (int i = 2; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--shared") {
      shared = true;
    } else if (i + 1 < argc && flag == "--seed") {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (i + 1 < argc && flag == "--operations") {
      operations = std::strtoull(argv[++i], nullptr, 10);
    } else if (i + 1 < argc && flag == "--seconds") {
      seconds = std::strtoull(argv[++i], nullptr, 10);
    } else {
      Usage();
    }
  }
  if ((operations == 0) == (seconds == 0)) Usage();
  struct sigaction action = {};
  action.sa_handler = [](int) { stopping = 1; };
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);

  Storm storm(argv[1], seed, shared);
  storm.Begin();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  for (uint64_t done = 0; stopping == 0; ++done) {
    if (operations > 0 && done == operations) break;
    if (seconds > 0 && std::chrono::steady_clock::now() >= end) break;
    storm.Step();
  }
  storm.Report();
  return 0;
}
