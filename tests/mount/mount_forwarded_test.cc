// Forwarded records reach what applications see, also what they hold open or mapped, and are never
// held up by updates that wait at the gate in the same directory.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "services/common/status/errno.h"
#include "tests/support/eventually.h"
#include "tests/support/mounted_replica.h"
#include "tests/support/record_chain.h"
#include "tests/support/test_node.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::tests {
namespace {

int Errno(int result) { return result < 0 ? errno : 0; }

std::vector<std::string> Names(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) return names;
  while (dirent* each = readdir(dir)) {
    if (each->d_name[0] != '.') names.push_back(each->d_name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

class MountForwardedTest : public ::testing::Test {
 protected:
  std::string Mnt(const std::string& name) { return mount_.Mnt(name); }
  // What the origin did is applied here; the kernel is told of it later.
  void Forward() {
    chain_.Pull(origin_.replica());
    absl::Status status = chain_.Feed(mount_.replica());
    ASSERT_TRUE(status.ok()) << status;
  }
  void ForwardAndTell() {
    Forward();
    ASSERT_TRUE(mount_.presto().WaitInvalidated(absl::Seconds(30)));
  }
  TestNode origin_{1};
  MountedReplica mount_{{.ordinal = 2, .open = false}};
  RecordChain chain_;
};

TEST_F(MountForwardedTest, CachedNamesAttributesAndListings) {
  ASSERT_EQ(origin_.Mkdir("d", 0755), 0);
  ASSERT_EQ(origin_.Create("d/a", 0644), 0);
  ASSERT_EQ(origin_.Write("d/a", 0, "one"), 0);
  ForwardAndTell();
  struct stat st;
  EXPECT_EQ(ReadFile(Mnt("d/a")), "one");
  EXPECT_EQ(Errno(stat(Mnt("d/b").c_str(), &st)), ENOENT);  // cached from now on
  EXPECT_EQ(Names(Mnt("d")), std::vector<std::string>{"a"});

  ASSERT_EQ(origin_.Create("d/b", 0600), 0);
  ASSERT_EQ(origin_.Write("d/a", 1, "NE more"), 0);
  ASSERT_EQ(origin_.Chmod("d/a", 0711), 0);
  ForwardAndTell();
  EXPECT_EQ(ReadFile(Mnt("d/a")), "oNE more");
  EXPECT_EQ(stat(Mnt("d/b").c_str(), &st), 0);
  EXPECT_EQ(stat(Mnt("d/a").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0711u);
  EXPECT_EQ(Names(Mnt("d")), (std::vector<std::string>{"a", "b"}));

  ASSERT_EQ(origin_.Rename("d/a", "d/c"), 0);
  ASSERT_EQ(origin_.Unlink("d/b"), 0);
  ASSERT_EQ(origin_.Symlink("c", "d/s"), 0);
  ASSERT_EQ(origin_.Rename("d", "moved"), 0);
  ForwardAndTell();
  EXPECT_EQ(Errno(stat(Mnt("d").c_str(), &st)), ENOENT);
  EXPECT_EQ(Names(Mnt("moved")), (std::vector<std::string>{"c", "s"}));
  EXPECT_EQ(ReadFile(Mnt("moved/s")), "oNE more");
  EXPECT_TRUE(CompareTrees(origin_.lower_path(), Mnt("")).empty());
}

// The kernel still knows the name when the writer opens it; by the time the token is there, another
// node has removed or replaced the file. What is written then must not go to the one that is gone.
TEST_F(MountForwardedTest, TruncatingOpenAfterARemovalElsewhereFindsTheNewFile) {
  for (const char* name : {"removed", "replaced"}) {
    ASSERT_EQ(origin_.Create(name, 0644), 0);
    ASSERT_EQ(origin_.Write(name, 0, "old"), 0);
  }
  ASSERT_EQ(origin_.Create("new", 0644), 0);
  ASSERT_EQ(origin_.Write("new", 0, "newer"), 0);
  ForwardAndTell();
  for (const char* name : {"removed", "replaced"}) EXPECT_EQ(ReadFile(Mnt(name)), "old");

  auto overwrite = [this](const std::string& name) {
    return std::thread([this, name] {
      EXPECT_EQ(InChild([&] {
                  const int fd = open(Mnt(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
                  return fd < 0 ? errno : (write(fd, "mine", 4) == 4 ? 0 : errno);
                }),
                0);
    });
  };
  std::thread first = overwrite("removed");
  std::thread second = overwrite("replaced");
  ASSERT_TRUE(Eventually([&] { return mount_.presto().parked_requests() == 2; }));
  ASSERT_EQ(origin_.Unlink("removed"), 0);
  ASSERT_EQ(origin_.Rename("new", "replaced"), 0);
  Forward();
  mount_.OpenGate();
  first.join();
  second.join();
  EXPECT_EQ(ReadFile(Mnt("removed")), "mine");
  EXPECT_EQ(ReadFile(Mnt("replaced")), "mine");
}

// A process that has the file open and mapped, and answers what it sees there.
class Reader {
 public:
  explicit Reader(const std::string& path) {
    if (pipe(ask_) != 0 || pipe(answer_) != 0) std::abort();
    thread_ = std::thread([this, path] { EXPECT_EQ(InChild([&] { return Serve(path); }), 0); });
    EXPECT_EQ(Ask(), 'k');
  }
  ~Reader() {
    close(ask_[1]);
    thread_.join();
    for (int fd : {ask_[0], answer_[0], answer_[1]}) close(fd);
  }
  struct Seen {
    int64_t size;
    char read;
    char mapped;
  };
  // What is at `offset`.
  Seen Look(off_t offset) {
    EXPECT_EQ(write(ask_[1], &offset, sizeof(offset)), static_cast<ssize_t>(sizeof(offset)));
    Seen seen = {};
    EXPECT_EQ(read(answer_[0], &seen, sizeof(seen)), static_cast<ssize_t>(sizeof(seen)));
    return seen;
  }

 private:
  char Ask() {
    char byte = 0;
    EXPECT_EQ(read(answer_[0], &byte, 1), 1);
    return byte;
  }
  int Serve(const std::string& path) {
    close(ask_[1]);
    const int fd = open(path.c_str(), O_RDONLY);
    if (fd < 0) return 1;
    const char* map = static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ, MAP_SHARED, fd, 0));
    if (map == MAP_FAILED || write(answer_[1], "k", 1) != 1) return 2;
    for (off_t offset; read(ask_[0], &offset, sizeof(offset)) == sizeof(offset);) {
      struct stat st;
      Seen seen = {};
      if (fstat(fd, &st) != 0 || pread(fd, &seen.read, 1, offset) < 0) return 3;
      seen.size = st.st_size;
      seen.mapped = offset < st.st_size ? map[offset] : '-';
      if (write(answer_[1], &seen, sizeof(seen)) != sizeof(seen)) return 4;
    }
    return 0;
  }
  int ask_[2];
  int answer_[2];
  std::thread thread_;
};

TEST_F(MountForwardedTest, OpenAndMappedFilesSeeNewContentAndSize) {
  ASSERT_EQ(origin_.Create("f", 0644), 0);
  ASSERT_EQ(origin_.Write("f", 0, std::string(20'000, 'a')), 0);
  ForwardAndTell();
  Reader reader(Mnt("f"));
  EXPECT_EQ(reader.Look(5000).mapped, 'a');
  EXPECT_EQ(reader.Look(19'999).read, 'a');

  ASSERT_EQ(origin_.Write("f", 5000, "b"), 0);
  ASSERT_EQ(origin_.Write("f", 20'000, std::string(10'000, 'c')), 0);
  ForwardAndTell();
  Reader::Seen seen = reader.Look(5000);
  EXPECT_EQ(seen.mapped, 'b');
  EXPECT_EQ(seen.read, 'b');
  EXPECT_EQ(seen.size, 30'000);
  seen = reader.Look(29'999);
  EXPECT_EQ(seen.mapped, 'c');
  EXPECT_EQ(seen.read, 'c');

  ASSERT_EQ(origin_.Truncate("f", 6000), 0);
  ForwardAndTell();
  EXPECT_EQ(reader.Look(5000).size, 6000);
  EXPECT_EQ(reader.Look(7000).read, '\0');
  ASSERT_EQ(origin_.Truncate("f", 9000), 0);
  ASSERT_EQ(origin_.Fallocate("f", 3, 4096, 1904), 0);  // punch a hole, keep the size
  ForwardAndTell();
  EXPECT_EQ(reader.Look(5000).mapped, '\0');
  EXPECT_EQ(reader.Look(5000).size, 9000);
}

TEST_F(MountForwardedTest, ReplacedAndRemovedFilesStayForThoseWhoHaveThemOpen) {
  for (const char* name : {"removed", "replaced"}) {
    ASSERT_EQ(origin_.Create(name, 0644), 0);
    ASSERT_EQ(origin_.Write(name, 0, std::string(10'000, 'o')), 0);
  }
  ASSERT_EQ(origin_.Create("new", 0644), 0);
  ASSERT_EQ(origin_.Write("new", 0, "new"), 0);
  ForwardAndTell();
  const int removed = open(Mnt("removed").c_str(), O_RDWR);
  const int replaced = open(Mnt("replaced").c_str(), O_RDWR);
  ASSERT_GE(removed, 0);
  ASSERT_GE(replaced, 0);
  ASSERT_EQ(origin_.Unlink("removed"), 0);
  ASSERT_EQ(origin_.Rename("new", "replaced"), 0);
  ForwardAndTell();
  EXPECT_EQ(ReadFile(Mnt("replaced")), "new");
  for (int fd : {removed, replaced}) {
    char byte = 0;
    EXPECT_EQ(pread(fd, &byte, 1, 9'000), 1);  // was never read: it comes from below
    EXPECT_EQ(byte, 'o');
    struct stat st;
    EXPECT_EQ(fstat(fd, &st), 0);
    EXPECT_EQ(st.st_nlink, 0u);
    // Nobody else sees what is written to it: no token is needed.
    EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
    close(fd);
  }
  EXPECT_EQ(mount_.presto().parked_requests(), 0);
}

struct Waiter {
  const char* name;
  // Made in `dir`, which has the files f and g, the directory s, and f the attribute user.x.
  std::function<int(const std::string& dir)> update;
};

int WithFile(const std::string& path, int flags, const std::function<ssize_t(int)>& use) {
  const int fd = open(path.c_str(), flags);
  if (fd < 0) return errno;
  const int error = use(fd) < 0 ? errno : 0;
  close(fd);
  return error;
}

const Waiter kWaiters[] = {
    {"create", [](const std::string& d) { return WriteFile(d + "/new", ""); }},
    {"mkdir", [](const std::string& d) { return Errno(mkdir((d + "/new").c_str(), 0755)); }},
    {"mknod", [](const std::string& d) { return Errno(mkfifo((d + "/new").c_str(), 0600)); }},
    {"symlink", [](const std::string& d) { return Errno(symlink("x", (d + "/new").c_str())); }},
    {"link",
     [](const std::string& d) { return Errno(link((d + "/g").c_str(), (d + "/new").c_str())); }},
    {"unlink", [](const std::string& d) { return Errno(unlink((d + "/g").c_str())); }},
    {"rmdir", [](const std::string& d) { return Errno(rmdir((d + "/s").c_str())); }},
    {"rename",
     [](const std::string& d) { return Errno(rename((d + "/g").c_str(), (d + "/new").c_str())); }},
    {"rename over",
     [](const std::string& d) { return Errno(rename((d + "/f").c_str(), (d + "/g").c_str())); }},
    {"exchange",
     [](const std::string& d) {
       return Errno(
           renameat2(AT_FDCWD, (d + "/f").c_str(), AT_FDCWD, (d + "/g").c_str(), RENAME_EXCHANGE));
     }},
    {"write",
     [](const std::string& d) {
       return WithFile(d + "/f", O_WRONLY, [](int fd) { return pwrite(fd, "LOCAL", 5, 8192); });
     }},
    {"append",
     [](const std::string& d) {
       return WithFile(d + "/f", O_WRONLY | O_APPEND, [](int fd) { return write(fd, "LOCAL", 5); });
     }},
    {"direct write",
     [](const std::string& d) {
       alignas(4096) static char page[4096];
       return WithFile(d + "/f", O_WRONLY | O_DIRECT,
                       [](int fd) { return pwrite(fd, page, 4096, 8192); });
     }},
    {"mapped write",
     [](const std::string& d) {
       return InChild([&] {
         return WithFile(d + "/f", O_RDWR, [](int fd) -> ssize_t {
           char* map =
               static_cast<char*>(mmap(nullptr, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
           if (map == MAP_FAILED) return -1;
           map[8192] = 'L';
           return munmap(map, 16384);
         });
       });
     }},
    {"truncate", [](const std::string& d) { return Errno(truncate((d + "/f").c_str(), 9000)); }},
    {"chmod", [](const std::string& d) { return Errno(chmod((d + "/f").c_str(), 0640)); }},
    {"chown", [](const std::string& d) { return Errno(chown((d + "/f").c_str(), 5, 6)); }},
    {"utimens",
     [](const std::string& d) { return Errno(utimensat(0, (d + "/f").c_str(), nullptr, 0)); }},
    {"fallocate",
     [](const std::string& d) {
       return WithFile(d + "/f", O_RDWR, [](int fd) { return fallocate(fd, 0, 8192, 4096); });
     }},
    {"copy",
     [](const std::string& d) {
       const int from = open((d + "/g").c_str(), O_RDONLY);
       const int error = WithFile(d + "/f", O_RDWR, [&](int fd) {
         off_t in = 0;
         off_t out = 8192;
         return copy_file_range(from, &in, fd, &out, 100, 0);
       });
       close(from);
       return error;
     }},
    {"setxattr",
     [](const std::string& d) { return Errno(setxattr((d + "/f").c_str(), "user.y", "y", 1, 0)); }},
    {"removexattr",
     [](const std::string& d) { return Errno(removexattr((d + "/f").c_str(), "user.x")); }},
    {"chmod of the directory", [](const std::string& d) { return Errno(chmod(d.c_str(), 0711)); }},
};

class WaitersTest : public MountForwardedTest, public ::testing::WithParamInterface<Waiter> {};

// The circle that must not close: the kernel holds locks for the waiting update, the token comes
// only after forwarded records were applied, in that very directory and to that very file.
TEST_P(WaitersTest, DoNotHoldUpForwardedRecords) {
  ASSERT_EQ(origin_.Mkdir("d", 0755), 0);
  ASSERT_EQ(origin_.Mkdir("d/s", 0755), 0);
  ASSERT_EQ(origin_.Create("d/f", 0644), 0);
  ASSERT_EQ(origin_.Write("d/f", 0, std::string(16384, 'f')), 0);
  ASSERT_EQ(origin_.Setxattr("d/f", "user.x", "x"), 0);
  ASSERT_EQ(origin_.Create("d/g", 0644), 0);
  ASSERT_EQ(origin_.Write("d/g", 0, std::string(200, 'g')), 0);
  ASSERT_EQ(origin_.Create("elsewhere", 0644), 0);
  ASSERT_EQ(origin_.Write("elsewhere", 0, "old"), 0);
  ForwardAndTell();
  EXPECT_EQ(ReadFile(Mnt("d/f")).size(), 16384u);
  EXPECT_EQ(ReadFile(Mnt("d/g")).size(), 200u);
  EXPECT_EQ(ReadFile(Mnt("elsewhere")), "old");
  EXPECT_EQ(Names(Mnt("d")), (std::vector<std::string>{"f", "g", "s"}));
  Reader reader(Mnt("d/f"));
  EXPECT_EQ(reader.Look(1).mapped, 'f');

  int result = -1;
  std::jthread waiter([&] { result = GetParam().update(Mnt("d")); });
  ASSERT_TRUE(Eventually([&] { return mount_.presto().parked_requests() > 0; }));

  // Every record returns from Apply while the update waits.
  ASSERT_EQ(origin_.Create("d/forwarded", 0644), 0);
  ASSERT_EQ(origin_.Mkdir("d/directory", 0755), 0);
  ASSERT_EQ(origin_.Write("d/f", 0, "FORWARDED"), 0);
  ASSERT_EQ(origin_.Chmod("d/g", 0600), 0);
  ASSERT_EQ(origin_.Rename("d/directory", "d/renamed"), 0);
  ASSERT_EQ(origin_.Write("elsewhere", 0, "new"), 0);
  Forward();
  EXPECT_GT(mount_.presto().parked_requests(), 0);
  // What nothing waits for is told meanwhile.
  ASSERT_TRUE(mount_.presto().WaitInvalidated(absl::Seconds(30)));
  EXPECT_EQ(ReadFile(Mnt("elsewhere")), "new");
  EXPECT_GT(mount_.presto().parked_requests(), 0);

  mount_.OpenGate();
  waiter.join();
  EXPECT_EQ(result, 0) << GetParam().name;
  ASSERT_TRUE(Eventually([&] { return mount_.presto().parked_requests() == 0; }));
  ASSERT_TRUE(mount_.presto().WaitInvalidated(absl::Seconds(30)));
  EXPECT_EQ(reader.Look(1).mapped, 'O');
  EXPECT_EQ(reader.Look(1).read, 'O');
  EXPECT_TRUE(std::filesystem::exists(Mnt("d/renamed")));
  EXPECT_TRUE(std::filesystem::exists(Mnt("d/forwarded")));
  EXPECT_EQ(CompareTrees(Mnt("d"), mount_.Low("d")), std::vector<std::string>());
}

std::string WaiterName(const ::testing::TestParamInfo<Waiter>& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(EveryUpdate, WaitersTest, ::testing::ValuesIn(kWaiters), WaiterName);

TEST_F(MountForwardedTest, AppendGoesToTheTrueEnd) {
  ASSERT_EQ(origin_.Create("log", 0644), 0);
  ASSERT_EQ(origin_.Write("log", 0, "one\n"), 0);
  ForwardAndTell();
  EXPECT_EQ(ReadFile(Mnt("log")), "one\n");
  std::jthread appender([&] {
    EXPECT_EQ(
        WithFile(Mnt("log"), O_WRONLY | O_APPEND, [](int fd) { return write(fd, "three\n", 6); }),
        0);
  });
  ASSERT_TRUE(Eventually([&] { return mount_.presto().parked_requests() == 1; }));
  ASSERT_EQ(origin_.Write("log", 4, "two\n"), 0);
  Forward();
  mount_.OpenGate();
  appender.join();
  ASSERT_TRUE(mount_.presto().WaitInvalidated(absl::Seconds(30)));
  EXPECT_EQ(ReadFile(Mnt("log")), "one\ntwo\nthree\n");
  EXPECT_EQ(ReadFile(mount_.Low("log")), "one\ntwo\nthree\n");
}

// A reconciliation makes files anew under the ids that the kernel and applications know.
TEST_F(MountForwardedTest, WhatIsOpenOfAnObjectThatIsMadeAgainIsTheNewOne) {
  ASSERT_EQ(origin_.Create("f", 0644), 0);
  ASSERT_EQ(origin_.Write("f", 0, "old"), 0);
  ForwardAndTell();
  Reader reader(Mnt("f"));
  EXPECT_EQ(reader.Look(0).read, 'o');
  {
    sidecar::Replica& replica = mount_.replica();
    absl::MutexLock lock(&replica.update_lock());
    const auto entry = replica.db().Entry(kRootObject, "f");
    ASSERT_TRUE(entry.has_value());
    const ObjectId object(entry->object());
    ASSERT_EQ(unlinkat(replica.lower().root_fd(), "f", 0), 0);
    auto batch = replica.mutable_db().NewBatch();
    batch->RemoveEntry(kRootObject, "f");
    batch->RemoveObject(object, *replica.db().Object(object));
    ASSERT_TRUE(replica.mutable_db().Commit(std::move(batch), false).ok());
    record::v1::Record create;
    create.mutable_create()->set_parent(kRootObject.value());
    create.mutable_create()->set_name("f");
    create.mutable_create()->set_object(object.value());
    create.mutable_create()->set_kind(record::v1::OBJECT_KIND_FILE);
    create.mutable_create()->mutable_attributes()->set_mode(0644);
    create.mutable_create()->mutable_attributes()->mutable_mtime();
    create.mutable_create()->mutable_parent_mtime();
    record::v1::Record write;
    write.mutable_write()->set_object(object.value());
    write.mutable_write()->add_extents()->set_length(5);
    write.mutable_write()->set_size(5);
    write.mutable_write()->mutable_mtime();
    const auto nothing = [](sidecar::NodeDb::Batch&) {};
    absl::Status status = replica.MakeUpdate(create, "", nothing);
    ASSERT_TRUE(status.ok()) << status;
    status = replica.MakeUpdate(write, "newer", nothing);
    ASSERT_TRUE(status.ok()) << status;
  }
  ASSERT_TRUE(mount_.presto().WaitInvalidated(absl::Seconds(30)));
  const Reader::Seen seen = reader.Look(0);
  EXPECT_EQ(seen.read, 'n');
  EXPECT_EQ(seen.size, 5);
  EXPECT_EQ(seen.mapped, 'n');
  EXPECT_EQ(ReadFile(Mnt("f")), "newer");
}

}  // namespace
}  // namespace intermezzo::tests
