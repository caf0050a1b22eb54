#include "tests/mount/generator/generator.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/mount/generator/side.h"
#include "tests/support/mounted_replica.h"
#include "tests/support/record_chain.h"
#include "tests/support/test_node.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::tests {
namespace {

constexpr uint32_t kNoId = 0xffffffff;

class Generator {
 public:
  Generator(const GeneratorOptions& options, const std::string& mount, const std::string& bare)
      : options_(options), bare_root_(bare), random_(options.seed), mount_(mount), bare_(bare) {
    for (int i = 0; i < 8; ++i) names_.push_back(std::string(1, static_cast<char>('a' + i)));
    names_.push_back("\xff\xfe\x01");
    names_.push_back("new\nline \"quoted\"");
    names_.push_back(std::string(255, 'l'));
    has_nameless_ = mount_.OpenNameless(0, "", 0, 0600).error == 0;
    mount_.Close(0);
  }

  // 0, or 1 after a difference was printed.
  int Run() {
    for (int i = 0; i < options_.operations; ++i) {
      text_.clear();
      if (i % 5 == 0) Scan();
      const Operation operation = Choose();
      Side::Become(caller_);
      const Result on_mount = operation(mount_);
      Side::Return();
      Side::Become(caller_);
      const Result on_bare = operation(bare_);
      Side::Return();
      const std::string line =
          absl::StrCat(i, ": uid ", caller_.uid, " ", text_, " = ", strerror(on_bare.error));
      if (options_.trace) fprintf(stderr, "%s\n", line.c_str());
      history_.push_back(line);
      if (history_.size() > 12) history_.pop_front();
      if (on_mount == on_bare) continue;
      for (const std::string& each : history_) fprintf(stderr, "  %s\n", each.c_str());
      fprintf(stderr, "seed %lu operation %d differs: mount %s \"%.400s\", bare %s \"%.400s\"\n",
              options_.seed, i, strerror(on_mount.error), absl::CHexEscape(on_mount.detail).c_str(),
              strerror(on_bare.error), absl::CHexEscape(on_bare.detail).c_str());
      return 1;
    }
    return 0;
  }

 private:
  using Operation = std::function<Result(Side&)>;

  uint64_t Below(uint64_t limit) { return random_() % limit; }
  bool Chance(int percent) { return Below(100) < static_cast<uint64_t>(percent); }
  template <typename T>
  T Pick(std::initializer_list<T> of) {
    return of.begin()[Below(of.size())];
  }

  // What there is now, so that most operations meet something.
  void Scan() {
    directories_ = {""};
    others_.clear();
    std::error_code error;
    for (auto it = std::filesystem::recursive_directory_iterator(bare_root_, error);
         !error && it != std::filesystem::recursive_directory_iterator(); it.increment(error)) {
      const std::string path = it->path().string().substr(bare_root_.size() + 1);
      (it->symlink_status().type() == std::filesystem::file_type::directory ? directories_
                                                                            : others_)
          .push_back(path);
    }
    // The order of a directory is not the seed's.
    std::sort(directories_.begin(), directories_.end());
    std::sort(others_.begin(), others_.end());
  }
  std::string Directory() { return directories_[Below(directories_.size())]; }
  std::string Other() { return others_.empty() ? Fresh() : others_[Below(others_.size())]; }
  std::string Known() { return Chance(30) ? Directory() : Chance(90) ? Other() : Fresh(); }
  // One that may be new.
  std::string Fresh() {
    std::string path = Chance(95) ? Directory() : Other();
    if (std::count(path.begin(), path.end(), '/') > 5 || path.size() > 1200) path.clear();
    return path + (path.empty() ? "" : "/") + names_[Below(names_.size())];
  }
  std::string Path() { return Chance(60) ? Known() : Fresh(); }
  // Mostly one that is open.
  int Slot() {
    const int first = static_cast<int>(Below(Side::kSlots));
    if (Chance(5)) return first;
    for (int i = 0; i < Side::kSlots; ++i) {
      if (bare_.is_open((first + i) % Side::kSlots)) return (first + i) % Side::kSlots;
    }
    return first;
  }
  off_t Offset() {
    const uint64_t kind = Below(10);
    if (kind < 5) return Below(20'000);
    return kind < 8 ? 4096 * Below(16) : Below(3'000'000);
  }
  mode_t Mode() {
    const mode_t mode = Pick<mode_t>({0644, 0666, 0600, 0755, 0777, 0700, 0});
    return Chance(20) ? mode | Pick<mode_t>({S_ISUID, S_ISGID, S_ISVTX, 06010, 02000}) : mode;
  }
  uid_t Uid() { return Pick<uid_t>({0, 1000, 1001}); }
  gid_t Gid() { return Pick<gid_t>({0, 1000, 1001, 2000}); }
  std::string Bytes(size_t size) {
    std::string bytes(size, '\0');
    uint64_t state = random_();
    for (char& byte : bytes) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<char>(state >> 56);
    }
    return bytes;
  }
  timespec Time() {
    const int64_t kind = Below(6);
    if (kind == 0) return {0, UTIME_NOW};
    if (kind == 1) return {0, UTIME_OMIT};
    return {static_cast<time_t>(Below(2'000'000'000)), static_cast<long>(Below(1'000'000'000))};
  }
  std::string Acl() {
    std::string acl("\2\0\0\0", 4);
    auto add = [&](uint16_t tag, uint32_t id) {
      const uint16_t words[2] = {tag, static_cast<uint16_t>(Below(8))};
      acl.append(reinterpret_cast<const char*>(words), 4);
      acl.append(reinterpret_cast<const char*>(&id), 4);
    };
    const bool named = Chance(70);
    add(1, kNoId);
    if (named) add(2, 1000 + Below(2));
    add(4, kNoId);
    if (named) add(8, 2000);
    if (named) add(16, kNoId);
    add(32, kNoId);
    return acl;
  }

  void Say(const std::string& text) { text_ = absl::CHexEscape(text); }

  void ChooseCaller() {
    caller_ = Caller();
    caller_.umask = Pick<mode_t>({022, 0, 077, 027});
    if (!Chance(35)) return;
    caller_.uid = Pick<uid_t>({1000, 1001});
    caller_.gid = caller_.uid;
    if (Chance(50)) caller_.groups.push_back(2000);
  }

  Operation Choose() {
    ChooseCaller();
    const uint64_t kind = Below(100);
    if (kind < 34) return ChooseName();
    if (kind < 50) return ChooseAttribute();
    if (kind < 60) return ChooseLook();
    return ChooseFile();
  }

  Operation ChooseName() {
    switch (Below(9)) {
      case 0:
      case 1: {
        const std::string path = Fresh();
        const mode_t mode = Chance(70) ? 0777 : Mode();
        Say(absl::StrCat("mkdir ", path, " ", mode));
        return [=](Side& s) { return s.Mkdir(path, mode); };
      }
      case 2: {
        const std::string path = Fresh();
        const mode_t kind = Pick<mode_t>({S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK});
        const mode_t mode = Mode();
        const dev_t device = kind == S_IFCHR || kind == S_IFBLK ? makedev(200 + Below(3), 300) : 0;
        Say(absl::StrCat("mknod ", path, " ", kind, " ", mode));
        return [=](Side& s) { return s.Mknod(path, kind | mode, device); };
      }
      case 3: {
        const std::string path = Fresh();
        const std::string target =
            Chance(50) ? names_[Below(8)] : "t/" + std::string(1 + Below(200), 's');
        Say(absl::StrCat("symlink ", path));
        return [=](Side& s) { return s.Symlink(target, path); };
      }
      case 4: {
        const std::string from = Chance(90) ? Other() : Known();
        const std::string to = Fresh();
        Say(absl::StrCat("link ", from, " ", to));
        return [=](Side& s) { return s.Link(from, to); };
      }
      case 5: {
        const std::string path = Chance(90) ? Other() : Known();
        Say(absl::StrCat("unlink ", path));
        return [=](Side& s) { return s.Unlink(path); };
      }
      case 6: {
        const std::string path = Chance(90) ? Directory() : Known();
        Say(absl::StrCat("rmdir ", path));
        return [=](Side& s) { return path.empty() ? Result() : s.Rmdir(path); };
      }
      default: {
        const std::string from = Known();
        const std::string to = Path();
        const unsigned flags = Pick<unsigned>(
            {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_WHITEOUT});
        Say(absl::StrCat("rename ", from, " ", to, " ", flags));
        // The root is a mount point here and not there.
        return [=](Side& s) {
          return from.empty() || to.empty() ? Result() : s.Rename(from, to, flags);
        };
      }
    }
  }

  Operation ChooseAttribute() {
    const std::string path = Known();
    switch (Below(9)) {
      case 0:
      case 1: {
        const mode_t mode = Mode();
        Say(absl::StrCat("chmod ", path, " ", mode));
        return [=](Side& s) { return s.Chmod(path, mode); };
      }
      case 2:
      case 3: {
        const uid_t uid = Chance(30) ? kNoId : caller_.uid != 0 ? caller_.uid : Uid();
        // Both unset: FUSE does not tell it from clearing set-id bits before a write.
        const gid_t gid = uid != kNoId && Chance(30) ? kNoId : Gid();
        Say(absl::StrCat("chown ", path, " ", uid, " ", gid));
        return [=](Side& s) { return s.Chown(path, uid, gid); };
      }
      case 4: {
        const std::array<timespec, 2> times = {Time(), Time()};
        Say(absl::StrCat("utimens ", path));
        return [=](Side& s) { return s.Utimens(path, times.data()); };
      }
      case 5: {
        const off_t size = Offset();
        Say(absl::StrCat("truncate ", path, " ", size));
        return [=](Side& s) { return s.Truncate(path, size); };
      }
      case 6: {
        const std::string name = XattrName();
        Say(absl::StrCat("removexattr ", path, " ", name));
        return [=](Side& s) { return s.Removexattr(path, name); };
      }
      default: {
        const std::string name = XattrName();
        std::string value = Bytes(Below(200));
        if (name.starts_with("system.")) value = Acl();
        if (name == "security.capability") {
          value = std::string("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
        }
        const int flags = Pick<int>({0, 0, XATTR_CREATE, XATTR_REPLACE});
        Say(absl::StrCat("setxattr ", path, " ", name, " ", flags));
        return [=](Side& s) { return s.Setxattr(path, name, value, flags); };
      }
    }
  }

  std::string XattrName() {
    return Pick<const char*>({"user.a", "user.b", "trusted.a", "security.capability",
                              "system.posix_acl_access", "system.posix_acl_access",
                              "system.posix_acl_default"});
  }

  Operation ChooseLook() {
    const std::string path = Path();
    switch (Below(6)) {
      case 0: {
        Say(absl::StrCat("list ", path));
        return [=](Side& s) { return s.List(path); };
      }
      case 1: {
        const std::string name = XattrName();
        Say(absl::StrCat("getxattr ", path, " ", name));
        return [=](Side& s) { return s.Getxattr(path, name); };
      }
      case 2: {
        Say(absl::StrCat("listxattr ", path));
        return [=](Side& s) { return s.Listxattr(path); };
      }
      case 3: {
        Say(absl::StrCat("readlink ", path));
        return [=](Side& s) { return s.Readlink(path); };
      }
      case 4: {
        const int mode = static_cast<int>(Below(8));
        Say(absl::StrCat("access ", path, " ", mode));
        return [=](Side& s) { return s.Access(path, mode); };
      }
      default: {
        Say(absl::StrCat("stat ", path));
        return [=](Side& s) { return s.Stat(path); };
      }
    }
  }

  Operation ChooseFile() {
    const int slot = Slot();
    const off_t offset = Offset();
    const bool direct = direct_[slot];
    switch (Below(has_nameless_ ? 19 : 16)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const int slot = static_cast<int>(Below(Side::kSlots));
        const std::string path = Chance(60) ? Other() : Path();
        int flags = Pick<int>({O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR});
        if (Chance(60)) flags |= O_CREAT;
        if (Chance(15)) flags |= O_EXCL;
        if (Chance(20)) flags |= O_TRUNC;
        if (Chance(25)) flags |= O_APPEND;
        if (Chance(10)) flags |= O_DSYNC;
        direct_[slot] = Chance(10);
        // FUSE takes O_DIRECT at any offset, disk file systems only at aligned ones.
        if (direct_[slot]) flags = (flags & ~O_APPEND) | O_DIRECT;
        const mode_t mode = Mode();
        Say(absl::StrCat("open ", slot, " ", path, " ", flags, " ", mode));
        return [=](Side& s) { return s.Open(slot, path, flags, mode); };
      }
      case 4: {
        Say(absl::StrCat("close ", slot));
        return [=](Side& s) { return s.Close(slot); };
      }
      case 5:
      case 6: {
        const off_t at = direct ? offset & ~off_t{4095} : offset;
        const size_t size = direct ? 4096 * (1 + Below(4)) : Below(30'000);
        Say(absl::StrCat("read ", slot, " ", at, " ", size));
        return [=](Side& s) { return s.Read(slot, at, size); };
      }
      case 7:
      case 8:
      case 9: {
        const off_t at = direct ? offset & ~off_t{4095} : offset;
        const std::string bytes = Bytes(direct       ? 4096 * (1 + Below(4))
                                        : Chance(90) ? Below(9'000)
                                                     : Below(1'500'000));
        Say(absl::StrCat("write ", slot, " ", at, " ", bytes.size()));
        return [=](Side& s) { return s.Write(slot, at, bytes); };
      }
      case 10: {
        Say(absl::StrCat("ftruncate ", slot, " ", offset));
        return [=](Side& s) { return s.Ftruncate(slot, offset); };
      }
      case 11: {
        const int mode = Pick<int>({0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
        const off_t length = 1 + Below(50'000);
        Say(absl::StrCat("fallocate ", slot, " ", mode, " ", offset, " ", length));
        return [=](Side& s) { return s.Fallocate(slot, mode, offset, length); };
      }
      case 12: {
        const int to = Slot();
        const off_t out = Offset();
        const size_t length = Below(100'000);
        Say(absl::StrCat("copy ", slot, " ", offset, " ", to, " ", out, " ", length));
        const bool aligned_only = direct || direct_[to];
        return [=](Side& s) {
          return aligned_only ? Result() : s.Copy(slot, offset, to, out, length);
        };
      }
      case 13: {
        const std::string bytes = Bytes(1 + Below(10'000));
        Say(absl::StrCat("map write ", slot, " ", offset, " ", bytes.size()));
        return [=](Side& s) { return s.MapWrite(slot, offset, bytes); };
      }
      case 16: {
        const int slot = static_cast<int>(Below(Side::kSlots));
        const std::string dir = Chance(95) ? Directory() : Other();
        const int flags = Chance(80) ? 0 : O_EXCL;
        const mode_t mode = Mode();
        direct_[slot] = false;
        Say(absl::StrCat("open nameless ", slot, " ", dir, " ", flags, " ", mode));
        return [=](Side& s) { return s.OpenNameless(slot, dir, flags, mode); };
      }
      case 17:
      case 18: {
        const std::string path = Fresh();
        Say(absl::StrCat("link open ", slot, " ", path));
        return [=](Side& s) { return s.LinkOpen(slot, path); };
      }
      case 14: {
        Say(absl::StrCat("fstat ", slot));
        return [=](Side& s) { return s.Fstat(slot); };
      }
      default: {
        if (Chance(50)) {
          const mode_t mode = Mode();
          Say(absl::StrCat("fchmod ", slot, " ", mode));
          return [=](Side& s) { return s.Fchmod(slot, mode); };
        }
        const bool data_only = Chance(50);
        Say(absl::StrCat("fsync ", slot));
        return [=](Side& s) { return s.Fsync(slot, data_only); };
      }
    }
  }

  const GeneratorOptions options_;
  const std::string bare_root_;
  std::mt19937_64 random_;
  Side mount_;
  Side bare_;
  std::vector<std::string> names_;
  std::vector<std::string> directories_;
  std::vector<std::string> others_;
  std::array<bool, Side::kSlots> direct_ = {};
  bool has_nameless_;  // with libfuse 3.17
  Caller caller_;
  std::string text_;
  std::deque<std::string> history_;
};

}  // namespace

std::vector<std::string> RunGenerator(const GeneratorOptions& options) {
  std::vector<std::string> problems;
  MountedReplica mounted({.answer_opens = options.answer_opens});
  const std::string bare =
      std::filesystem::path(mounted.lower_path()).parent_path().string() + "/bare";
  if (mkdir(bare.c_str(), 0755) != 0) return {"cannot make the bare directory"};
  for (const std::string& root : {mounted.mount_path(), bare}) chmod(root.c_str(), 0777);
  const int result = InChild([&] { return Generator(options, mounted.mount_path(), bare).Run(); });
  const std::string seed = absl::StrCat("seed ", options.seed, ": ");
  if (result != 0) return {absl::StrCat(seed, "operations differ, or died: ", result)};

  absl::Status flushed = mounted.presto().FlushMappings(absl::Seconds(30));
  if (!flushed.ok()) problems.push_back(absl::StrCat(seed, flushed.ToString()));
  mounted.CloseGate();
  auto compare = [&](const char* what, const std::string& a, const std::string& b,
                     const TreeDigestOptions& with) {
    for (const std::string& line : CompareTrees(a, b, with)) {
      problems.push_back(absl::StrCat(seed, what, ": ", line));
    }
  };
  compare("mount and bare", mounted.mount_path(), bare, {.holes = false, .mtimes = false});
  // The lower one first: xfs shows space that was allocated and never written as a hole until its
  // pages are cached, and reading the mount need not read below.
  compare("lower and mount", mounted.lower_path(), mounted.mount_path(), {});
  TestNode replica(2);
  RecordChain chain;
  chain.Pull(mounted.replica());
  if (absl::Status fed = chain.Feed(replica.replica()); !fed.ok()) {
    problems.push_back(absl::StrCat(seed, "replica: ", fed.ToString()));
  }
  compare("lower and replica", mounted.lower_path(), replica.lower_path(), {.holes = false});
  return problems;
}

}  // namespace intermezzo::tests
