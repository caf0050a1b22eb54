// What an application sees on the mount, operation by operation: it is what the file system below
// does, and each change is captured.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <prometheus/registry.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "services/common/record/codec.h"
#include "tests/support/eventually.h"
#include "tests/support/mounted_replica.h"

namespace intermezzo::tests {
namespace {

int Errno(int result) { return result < 0 ? errno : 0; }

struct stat Stat(const std::string& path) {
  struct stat st = {};
  EXPECT_EQ(lstat(path.c_str(), &st), 0) << path << ": " << strerror(errno);
  return st;
}

class MountContractTest : public ::testing::Test {
 protected:
  std::string Mnt(const std::string& name) { return mount_.Mnt(name); }
  std::string Low(const std::string& name) { return mount_.Low(name); }
  // Short descriptions of what was captured.
  std::vector<record::v1::Record> Records() {
    std::vector<record::v1::Record> records;
    for (const record::v1::Entry& entry : mount_.Records()) {
      auto record = OpenRecord(entry);
      EXPECT_TRUE(record.ok()) << record.status();
      records.push_back(*std::move(record));
    }
    return records;
  }
  MountedReplica mount_;
};

TEST_F(MountContractTest, CreatesAndReads) {
  ASSERT_EQ(WriteFile(Mnt("a"), "hello"), 0);
  EXPECT_EQ(ReadFile(Mnt("a")), "hello");
  EXPECT_EQ(ReadFile(Low("a")), "hello");
  const auto records = Records();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(records[0].has_create());
  ASSERT_TRUE(records[1].has_write());
  EXPECT_EQ(records[1].write().size(), 5u);
}

TEST_F(MountContractTest, InodeNumbersAreThoseBelow) {
  ASSERT_EQ(mkdir(Mnt("d").c_str(), 0755), 0);
  ASSERT_EQ(WriteFile(Mnt("d/f"), "x"), 0);
  ASSERT_EQ(symlink("f", Mnt("d/s").c_str()), 0);
  for (const char* name : {"", "d", "d/f", "d/s"}) {
    EXPECT_EQ(Stat(Mnt(name)).st_ino, Stat(Low(name)).st_ino) << name;
  }
}

std::map<std::string, ino_t> List(const std::string& path) {
  std::map<std::string, ino_t> names;
  DIR* dir = opendir(path.c_str());
  EXPECT_NE(dir, nullptr) << path;
  if (dir == nullptr) return names;
  while (dirent* each = readdir(dir)) names[each->d_name] = each->d_ino;
  closedir(dir);
  return names;
}

TEST_F(MountContractTest, ListsAsBelow) {
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(WriteFile(Mnt("file" + std::to_string(i)), "x"), 0);
  ASSERT_EQ(mkdir(Mnt("dir").c_str(), 0700), 0);
  auto above = List(Mnt(""));
  auto below = List(Low(""));
  EXPECT_EQ(above.size(), 2003u);
  EXPECT_EQ(above, below);
  // Once more, from the kernel's cached listing, and after a change.
  EXPECT_EQ(List(Mnt("")), below);
  ASSERT_EQ(unlink(Mnt("file7").c_str()), 0);
  EXPECT_EQ(List(Mnt("")), List(Low("")));
}

TEST_F(MountContractTest, ErrorsAreTheLowerOnes) {
  ASSERT_EQ(mkdir(Mnt("d").c_str(), 0755), 0);
  ASSERT_EQ(WriteFile(Mnt("d/f"), "x"), 0);
  const size_t before = Records().size();
  EXPECT_EQ(Errno(mkdir(Mnt("d").c_str(), 0755)), EEXIST);
  EXPECT_EQ(Errno(rmdir(Mnt("d").c_str())), ENOTEMPTY);
  EXPECT_EQ(Errno(unlink(Mnt("none").c_str())), ENOENT);
  EXPECT_EQ(Errno(rmdir(Mnt("d/f").c_str())), ENOTDIR);
  EXPECT_EQ(Errno(unlink(Mnt("d").c_str())), EISDIR);
  EXPECT_EQ(Errno(open(Mnt("d/f/x").c_str(), O_RDONLY)), ENOTDIR);
  EXPECT_EQ(Errno(open(Mnt("d/f").c_str(), O_CREAT | O_EXCL, 0600)), EEXIST);
  EXPECT_EQ(Errno(mkdir(Mnt(std::string(256, 'n')).c_str(), 0755)), ENAMETOOLONG);
  EXPECT_EQ(Errno(rename(Mnt("d").c_str(), Mnt("d/in").c_str())), EINVAL);
  EXPECT_EQ(Errno(removexattr(Mnt("d/f").c_str(), "user.none")), ENODATA);
  EXPECT_EQ(Records().size(), before);
}

TEST_F(MountContractTest, RenamesWithAllFlags) {
  ASSERT_EQ(WriteFile(Mnt("a"), "A"), 0);
  ASSERT_EQ(WriteFile(Mnt("b"), "B"), 0);
  auto rename2 = [&](const char* from, const char* to, unsigned flags) {
    return Errno(renameat2(AT_FDCWD, Mnt(from).c_str(), AT_FDCWD, Mnt(to).c_str(), flags));
  };
  EXPECT_EQ(rename2("a", "b", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(rename2("a", "b", RENAME_EXCHANGE), 0);
  EXPECT_EQ(ReadFile(Mnt("a")), "B");
  EXPECT_EQ(ReadFile(Mnt("b")), "A");
  EXPECT_EQ(rename2("a", "c", RENAME_WHITEOUT), 0);
  struct stat st = Stat(Mnt("a"));
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(st.st_rdev, makedev(0, 0));
  EXPECT_EQ(rename2("c", "b", 0), 0);
  EXPECT_EQ(ReadFile(Mnt("b")), "B");
  EXPECT_EQ(rename2("b", "d", RENAME_NOREPLACE), 0);
  EXPECT_EQ(List(Mnt("")), List(Low("")));
}

TEST_F(MountContractTest, LinksShareAnInode) {
  ASSERT_EQ(WriteFile(Mnt("a"), "one"), 0);
  ASSERT_EQ(link(Mnt("a").c_str(), Mnt("b").c_str()), 0);
  EXPECT_EQ(Stat(Mnt("a")).st_nlink, 2u);
  EXPECT_EQ(Stat(Mnt("a")).st_ino, Stat(Mnt("b")).st_ino);
  ASSERT_EQ(unlink(Mnt("a").c_str()), 0);
  EXPECT_EQ(ReadFile(Mnt("b")), "one");
  EXPECT_EQ(Stat(Mnt("b")).st_nlink, 1u);
}

TEST_F(MountContractTest, SpecialFiles) {
  ASSERT_EQ(mkfifo(Mnt("fifo").c_str(), 0640), 0);
  ASSERT_EQ(mknod(Mnt("chr").c_str(), S_IFCHR | 0600, makedev(1, 3)), 0);
  ASSERT_EQ(mknod(Mnt("sock").c_str(), S_IFSOCK | 0600, 0), 0);
  ASSERT_EQ(symlink("where/it/points", Mnt("link").c_str()), 0);
  for (const char* name : {"fifo", "chr", "sock", "link"}) {
    EXPECT_EQ(Stat(Mnt(name)).st_mode, Stat(Low(name)).st_mode) << name;
    EXPECT_EQ(Stat(Mnt(name)).st_rdev, Stat(Low(name)).st_rdev) << name;
  }
  char target[64] = {};
  EXPECT_GT(readlink(Mnt("link").c_str(), target, sizeof(target)), 0);
  EXPECT_STREQ(target, "where/it/points");
  EXPECT_EQ(WriteFile(Mnt("chr"), "into the void"), 0);  // /dev/null
}

TEST_F(MountContractTest, AttributesAndNanoseconds) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  ASSERT_EQ(chmod(Mnt("f").c_str(), 04751), 0);
  ASSERT_EQ(chown(Mnt("f").c_str(), 1234, 4321), 0);
  const timespec times[2] = {{11, 123456789}, {22, 987654321}};
  ASSERT_EQ(utimensat(AT_FDCWD, Mnt("f").c_str(), times, 0), 0);
  for (const std::string& path : {Mnt("f"), Low("f")}) {
    struct stat st = Stat(path);
    EXPECT_EQ(st.st_mode & 07777, 0751u) << path;  // chown took the set-uid bit
    EXPECT_EQ(st.st_uid, 1234u);
    EXPECT_EQ(st.st_gid, 4321u);
    EXPECT_EQ(st.st_mtim.tv_nsec, 987654321);
    EXPECT_EQ(st.st_atim.tv_nsec, 123456789);
  }
  record::v1::SetAttributesOp last;  // a write record may be cut after it
  for (const auto& record : Records()) {
    if (record.has_set_attributes()) last = record.set_attributes();
  }
  EXPECT_EQ(last.attributes().mtime().nanos(), 987654321u);
  EXPECT_EQ(last.atime().nanos(), 123456789u);
  EXPECT_EQ(last.attributes().mode(), 0751u);
}

TEST_F(MountContractTest, WhatChangesNothingIsNotJournaled) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  const size_t before = Records().size();
  const struct stat st = Stat(Mnt("f"));
  ASSERT_EQ(chmod(Mnt("f").c_str(), st.st_mode & 07777), 0);
  ASSERT_EQ(chown(Mnt("f").c_str(), st.st_uid, st.st_gid), 0);
  EXPECT_EQ(Records().size(), before);
  ASSERT_EQ(chmod(Mnt("f").c_str(), 0600), 0);
  EXPECT_EQ(Records().size(), before + 1);
}

TEST_F(MountContractTest, TruncatesAndHoles) {
  ASSERT_EQ(WriteFile(Mnt("f"), std::string(100'000, 'x')), 0);
  ASSERT_EQ(truncate(Mnt("f").c_str(), 10), 0);
  EXPECT_EQ(ReadFile(Mnt("f")), std::string(10, 'x'));
  ASSERT_EQ(truncate(Mnt("f").c_str(), 1 << 20), 0);
  EXPECT_EQ(Stat(Low("f")).st_size, 1 << 20);
  const int fd = open(Mnt("f").c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(Errno(fallocate(fd, 0, 1 << 20, 4096)), 0);
  EXPECT_EQ(Errno(fallocate(fd, FALLOC_FL_KEEP_SIZE, 1 << 21, 4096)), 0);
  EXPECT_EQ(Errno(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192)), 0);
  // tmpfs cannot zero a range.
  const int bare = open(Low("../bare").c_str(), O_CREAT | O_RDWR, 0600);
  const int zeroed = Errno(fallocate(bare, FALLOC_FL_ZERO_RANGE, 8192, 8192));
  close(bare);
  EXPECT_EQ(Errno(fallocate(fd, FALLOC_FL_ZERO_RANGE, 8192, 8192)), zeroed);
  const int low = open(Low("f").c_str(), O_RDONLY);
  for (int whence : {SEEK_DATA, SEEK_HOLE}) {
    for (off_t at : {0, 5000, 300'000}) {
      EXPECT_EQ(lseek(fd, at, whence), lseek(low, at, whence)) << whence << " " << at;
    }
  }
  close(low);
  close(fd);
  EXPECT_EQ(Stat(Mnt("f")).st_size, (1 << 20) + 4096);
  EXPECT_EQ(ReadFile(Mnt("f")), ReadFile(Low("f")));
  int allocates = 0;
  for (const auto& record : Records()) allocates += record.has_allocate();
  EXPECT_EQ(allocates, zeroed == 0 ? 4 : 3);
}

TEST_F(MountContractTest, CopiesARange) {
  ASSERT_EQ(WriteFile(Mnt("from"), "0123456789"), 0);
  ASSERT_EQ(WriteFile(Mnt("to"), "abcdefghij"), 0);
  const int from = open(Mnt("from").c_str(), O_RDONLY);
  const int to = open(Mnt("to").c_str(), O_RDWR);
  off_t in = 2;
  off_t out = 4;
  EXPECT_EQ(copy_file_range(from, &in, to, &out, 3, 0), 3);
  close(from);
  close(to);
  EXPECT_EQ(ReadFile(Mnt("to")), "abcd234hij");
  const auto records = Records();
  ASSERT_TRUE(records.back().has_write());
}

TEST_F(MountContractTest, ExtendedAttributes) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  for (const char* name : {"user.a", "trusted.b", "security.c"}) {
    ASSERT_EQ(Errno(setxattr(Mnt("f").c_str(), name, "value", 5, 0)), 0) << name;
    char value[16];
    EXPECT_EQ(getxattr(Low("f").c_str(), name, value, sizeof(value)), 5) << name;
    EXPECT_EQ(getxattr(Mnt("f").c_str(), name, value, sizeof(value)), 5) << name;
    EXPECT_EQ(getxattr(Mnt("f").c_str(), name, nullptr, 0), 5) << name;
    EXPECT_EQ(getxattr(Mnt("f").c_str(), name, value, 2), -1);
    EXPECT_EQ(errno, ERANGE);
  }
  EXPECT_EQ(Errno(setxattr(Mnt("f").c_str(), "user.a", "v", 1, XATTR_CREATE)), EEXIST);
  EXPECT_EQ(Errno(setxattr(Mnt("f").c_str(), "user.z", "v", 1, XATTR_REPLACE)), ENODATA);
  char list[256];
  EXPECT_EQ(listxattr(Mnt("f").c_str(), list, sizeof(list)),
            listxattr(Low("f").c_str(), nullptr, 0));
  // Another user is shown what it is shown below: trusted.* on btrfs, not on others.
  EXPECT_EQ(InChild(
                [&] {
                  char above[256] = {};
                  char below[256] = {};
                  const ssize_t n = listxattr(Mnt("f").c_str(), above, sizeof(above));
                  if (n <= 0 || n != listxattr(Low("f").c_str(), below, sizeof(below))) return 1;
                  return memcmp(above, below, n) == 0 ? 0 : 2;
                },
                1000, 1000),
            0);
  ASSERT_EQ(removexattr(Mnt("f").c_str(), "user.a"), 0);
  EXPECT_EQ(Errno(getxattr(Low("f").c_str(), "user.a", nullptr, 0)), ENODATA);
}

// A POSIX ACL in the kernel's form: entries of (tag, permissions, id).
std::string Acl(std::vector<std::array<uint32_t, 3>> entries) {
  std::string acl("\2\0\0\0", 4);
  for (const auto& [tag, permissions, id] : entries) {
    const uint16_t words[2] = {static_cast<uint16_t>(tag), static_cast<uint16_t>(permissions)};
    acl.append(reinterpret_cast<const char*>(words), 4);
    acl.append(reinterpret_cast<const char*>(&id), 4);
  }
  return acl;
}

constexpr uint32_t kNoId = 0xffffffff;

TEST_F(MountContractTest, AclsAreEnforcedAndInherited) {
  const std::string access =
      Acl({{1, 6, kNoId}, {2, 4, 1000}, {4, 0, kNoId}, {0x10, 4, kNoId}, {0x20, 0, kNoId}});
  ASSERT_EQ(WriteFile(Mnt("f"), "secret"), 0);
  ASSERT_EQ(chmod(Mnt("f").c_str(), 0600), 0);
  auto readable = [&](uid_t uid) {
    return InChild([&] { return open(Mnt("f").c_str(), O_RDONLY) < 0 ? errno : 0; }, uid, uid);
  };
  EXPECT_EQ(readable(1000), EACCES);
  ASSERT_EQ(
      Errno(setxattr(Mnt("f").c_str(), "system.posix_acl_access", access.data(), access.size(), 0)),
      0);
  EXPECT_EQ(readable(1000), 0);
  EXPECT_EQ(readable(1001), EACCES);
  EXPECT_EQ(Stat(Mnt("f")).st_mode, Stat(Low("f")).st_mode);
  // A default ACL takes the umask's place.
  ASSERT_EQ(mkdir(Mnt("d").c_str(), 0777), 0);
  const std::string inherited =
      Acl({{1, 7, kNoId}, {2, 6, 1000}, {4, 5, kNoId}, {0x10, 7, kNoId}, {0x20, 0, kNoId}});
  for (const std::string& dir : {Mnt("d"), Low("")}) {
    ASSERT_EQ(Errno(setxattr(dir.c_str(), "system.posix_acl_default", inherited.data(),
                             inherited.size(), 0)),
              0);
  }
  ASSERT_EQ(WriteFile(Mnt("d/new"), "x"), 0);
  ASSERT_EQ(WriteFile(Low("reference"), "x"), 0);
  EXPECT_EQ(Stat(Mnt("d/new")).st_mode, Stat(Low("reference")).st_mode);
  EXPECT_GT(getxattr(Mnt("d/new").c_str(), "system.posix_acl_access", nullptr, 0), 0);
}

TEST_F(MountContractTest, OwnersUmaskAndSetgidDirectories) {
  ASSERT_EQ(mkdir(Mnt("open").c_str(), 0777), 0);
  ASSERT_EQ(chmod(Mnt("open").c_str(), 01777), 0);
  ASSERT_EQ(mkdir(Mnt("group").c_str(), 0777), 0);
  ASSERT_EQ(chown(Mnt("group").c_str(), 0, 2000), 0);
  ASSERT_EQ(chmod(Mnt("group").c_str(), 02777), 0);
  ASSERT_EQ(InChild(
                [&] {
                  umask(027);
                  if (WriteFile(Mnt("open/f"), "x") != 0) return 1;
                  if (mkdir(Mnt("group/d").c_str(), 0777) != 0) return 2;
                  if (WriteFile(Mnt("group/f"), "x") != 0) return 3;
                  if (mknod(Mnt("open/suid").c_str(), S_IFREG | 06755, 0) != 0) return 4;
                  if (symlink("x", Mnt("open/s").c_str()) != 0) return 5;
                  return 0;
                },
                1000, 1001),
            0);
  EXPECT_EQ(Stat(Mnt("open/f")).st_mode & 07777, 0640u);
  EXPECT_EQ(Stat(Mnt("open/f")).st_uid, 1000u);
  EXPECT_EQ(Stat(Mnt("open/f")).st_gid, 1001u);
  EXPECT_EQ(Stat(Mnt("open/s")).st_uid, 1000u);
  EXPECT_EQ(Stat(Mnt("open/suid")).st_mode & 07777, 06750u);
  EXPECT_EQ(Stat(Mnt("group/d")).st_mode & 07777, 02750u);
  EXPECT_EQ(Stat(Mnt("group/d")).st_gid, 2000u);
  EXPECT_EQ(Stat(Mnt("group/f")).st_gid, 2000u);
  EXPECT_EQ(Stat(Mnt("group/f")).st_uid, 1000u);
}

TEST_F(MountContractTest, WritingClearsSetIds) {
  for (const char* name : {"write", "truncate", "root"}) {
    ASSERT_EQ(WriteFile(Mnt(name), "xyz"), 0);
    ASSERT_EQ(chmod(Mnt(name).c_str(), 06777), 0);
  }
  EXPECT_EQ(InChild(
                [&] {
                  const int fd = open(Mnt("write").c_str(), O_WRONLY);
                  if (fd < 0 || pwrite(fd, "a", 1, 0) != 1) return 1;
                  return truncate(Mnt("truncate").c_str(), 1) == 0 ? 0 : 2;
                },
                1000, 1000),
            0);
  const int fd = open(Mnt("root").c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "a", 1, 0), 1);
  close(fd);
  EXPECT_EQ(Stat(Mnt("write")).st_mode & 07777, 0777u);
  EXPECT_EQ(Stat(Mnt("truncate")).st_mode & 07777, 0777u);
  EXPECT_EQ(Stat(Mnt("root")).st_mode & 07777, 06777u);
  int captured = 0;
  for (const auto& record : Records()) {
    captured += record.has_set_attributes() && record.set_attributes().attributes().mode() == 0777;
  }
  EXPECT_EQ(captured, 2);
}

// tmpfs cannot zero a range, and then leaves the bits.
TEST_F(MountContractTest, AllocatingClearsSetIdsWhereItDoesBelow) {
  ASSERT_EQ(mkdir(Low("../bare").c_str(), 0755), 0);
  for (const std::string& path : {Mnt("f"), Low("../bare/f")}) {
    ASSERT_EQ(WriteFile(path, "xyz"), 0);
    ASSERT_EQ(chmod(path.c_str(), 06777), 0);
  }
  for (int mode : {FALLOC_FL_ZERO_RANGE, 0}) {
    auto allocate = [&](const std::string& path) {
      return InChild([&] { return Errno(fallocate(open(path.c_str(), O_WRONLY), mode, 0, 4096)); },
                     1000, 1000);
    };
    EXPECT_EQ(allocate(Mnt("f")), allocate(Low("../bare/f"))) << mode;
    EXPECT_EQ(Stat(Mnt("f")).st_mode, Stat(Low("../bare/f")).st_mode) << mode;
  }
}

TEST_F(MountContractTest, PermissionsAreTheCallers) {
  ASSERT_EQ(WriteFile(Mnt("private"), "x"), 0);
  ASSERT_EQ(chmod(Mnt("private").c_str(), 0600), 0);
  EXPECT_EQ(InChild(
                [&] {
                  if (open(Mnt("private").c_str(), O_RDONLY) >= 0 || errno != EACCES) return 1;
                  if (mkdir(Mnt("mine").c_str(), 0700) == 0 || errno != EACCES) return 2;
                  if (unlink(Mnt("private").c_str()) == 0 || errno != EACCES) return 3;
                  if (chmod(Mnt("private").c_str(), 0666) == 0 || errno != EPERM) return 4;
                  return 0;
                },
                1000, 1000),
            0);
}

TEST_F(MountContractTest, OpenFilesOutliveTheirNames) {
  ASSERT_EQ(WriteFile(Mnt("f"), "before"), 0);
  ASSERT_EQ(WriteFile(Mnt("over"), "replaced"), 0);
  const int fd = open(Mnt("f").c_str(), O_RDWR);
  const int over = open(Mnt("over").c_str(), O_RDWR);
  ASSERT_EQ(unlink(Mnt("f").c_str()), 0);
  ASSERT_EQ(WriteFile(Mnt("other"), "other"), 0);
  ASSERT_EQ(rename(Mnt("other").c_str(), Mnt("over").c_str()), 0);
  const size_t before = Records().size();
  for (int each : {fd, over}) {
    EXPECT_EQ(pwrite(each, "AFTER", 5, 100), 5);
    char text[8] = {};
    EXPECT_EQ(pread(each, text, 5, 100), 5);
    EXPECT_STREQ(text, "AFTER");
    EXPECT_EQ(Errno(ftruncate(each, 3)), 0);
    EXPECT_EQ(Errno(fchmod(each, 0600)), 0);
    struct stat st;
    EXPECT_EQ(fstat(each, &st), 0);
    EXPECT_EQ(st.st_size, 3);
    EXPECT_EQ(st.st_nlink, 0u);
    close(each);
  }
  EXPECT_EQ(Records().size(), before);
  EXPECT_EQ(ReadFile(Mnt("over")), "other");
  // What was pinned is let go.
  EXPECT_TRUE(Eventually([&] { return mount_.presto().known_objects() <= 2; }));
}

// A file without a name. -1: the mount has no O_TMPFILE.
int OpenTmpfile(const std::string& dir, int flags = 0) {
  const int fd = open(dir.c_str(), O_TMPFILE | O_RDWR | flags, 0640);
  EXPECT_TRUE(fd >= 0 || errno == EOPNOTSUPP) << strerror(errno);
  return fd;
}

TEST_F(MountContractTest, FilesThatGetTheirNameLater) {
  const int fd = OpenTmpfile(Mnt(""));
  if (fd < 0) GTEST_SKIP() << "no O_TMPFILE with this libfuse";
  ASSERT_EQ(pwrite(fd, "head", 4, 0), 4);
  ASSERT_EQ(pwrite(fd, "tail", 4, 1 << 20), 4);
  ASSERT_EQ(Errno(fchmod(fd, 0604)), 0);
  ASSERT_EQ(Errno(fsetxattr(fd, "user.a", "v", 1, 0)), 0);
  struct stat st;
  ASSERT_EQ(fstat(fd, &st), 0);
  EXPECT_EQ(st.st_nlink, 0u);
  EXPECT_THAT(Records(), ::testing::IsEmpty());
  EXPECT_EQ(List(Mnt("")).size(), 2u);
  ASSERT_EQ(Errno(linkat(fd, "", AT_FDCWD, Mnt("f").c_str(), AT_EMPTY_PATH)), 0);
  ASSERT_EQ(fstat(fd, &st), 0);
  EXPECT_EQ(st.st_nlink, 1u);
  EXPECT_EQ(st.st_ino, Stat(Low("f")).st_ino);
  EXPECT_EQ(Stat(Mnt("f")).st_ino, st.st_ino);
  ASSERT_EQ(pwrite(fd, "HEAD", 4, 0), 4);
  ASSERT_EQ(Errno(link(Mnt("f").c_str(), Mnt("g").c_str())), 0);
  EXPECT_EQ(ReadFile(Mnt("g")), ReadFile(Low("f")));
  EXPECT_EQ(ReadFile(Mnt("g")).substr(0, 4), "HEAD");

  const auto records = Records();
  ASSERT_GE(records.size(), 3u);
  ASSERT_TRUE(records[0].has_create());
  EXPECT_EQ(records[0].create().attributes().mode(), 0604u);
  EXPECT_EQ(records[0].create().xattrs_size(), 1);
  uint64_t bytes = 0;
  for (const auto& record : records) {
    for (const auto& extent : record.write().extents()) bytes += extent.length();
  }
  EXPECT_LT(bytes, 100'000u);  // not the hole
  EXPECT_TRUE(records.back().has_link());

  ASSERT_EQ(unlink(Mnt("f").c_str()), 0);
  ASSERT_EQ(unlink(Mnt("g").c_str()), 0);
  const size_t before = Records().size();
  EXPECT_EQ(pwrite(fd, "more", 4, 0), 4);
  EXPECT_EQ(Errno(linkat(fd, "", AT_FDCWD, Mnt("again").c_str(), AT_EMPTY_PATH)), ENOENT);
  close(fd);
  EXPECT_EQ(Records().size(), before);
  EXPECT_TRUE(Eventually([&] { return mount_.presto().known_objects() <= 1; }));
}

TEST_F(MountContractTest, FilesThatNeverGetAName) {
  ASSERT_EQ(chmod(Mnt("").c_str(), 0777), 0);
  const size_t before = Records().size();
  const int fd = OpenTmpfile(Mnt(""), O_EXCL);
  if (fd < 0) GTEST_SKIP() << "no O_TMPFILE with this libfuse";
  EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
  EXPECT_EQ(Errno(linkat(fd, "", AT_FDCWD, Mnt("f").c_str(), AT_EMPTY_PATH)), ENOENT);
  close(fd);
  EXPECT_EQ(InChild(
                [&] {
                  struct stat st;
                  const int own = OpenTmpfile(Mnt(""));
                  if (own < 0 || fstat(own, &st) != 0) return 1;
                  const std::string path = "/proc/self/fd/" + std::to_string(own);
                  if (ftruncate(own, 5000) != 0) return 2;
                  if (linkat(AT_FDCWD, path.c_str(), AT_FDCWD, Mnt("own").c_str(),
                             AT_SYMLINK_FOLLOW) != 0) {
                    return 3;
                  }
                  return st.st_uid == 1000 && st.st_gid == 1001 ? 0 : 4;
                },
                1000, 1001),
            0);
  EXPECT_EQ(Stat(Low("own")).st_uid, 1000u);
  EXPECT_EQ(Stat(Low("own")).st_size, 5000);
  const auto records = Records();
  ASSERT_EQ(records.size(), before + 2);
  EXPECT_TRUE(records[before].has_create());
  EXPECT_EQ(records[before + 1].truncate().size(), 5000u);
  EXPECT_TRUE(Eventually([&] { return mount_.presto().known_objects() <= 2; }));
}

TEST_F(MountContractTest, AppendsFromFourWriters) {
  constexpr int kLines = 400;
  ASSERT_EQ(WriteFile(Mnt("log"), ""), 0);
  std::vector<std::jthread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      const int fd = open(Mnt("log").c_str(), O_WRONLY | O_APPEND);
      for (int i = 0; i < kLines; ++i) {
        const std::string line = std::to_string(w) + ":" + std::to_string(i) + "\n";
        EXPECT_EQ(write(fd, line.data(), line.size()), static_cast<ssize_t>(line.size()));
      }
      close(fd);
    });
  }
  for (std::jthread& each : writers) each.join();
  std::istringstream lines(ReadFile(Mnt("log")));
  int next[4] = {};
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const int w = line[0] - '0';
    ASSERT_EQ(line, std::to_string(w) + ":" + std::to_string(next[w]++));
  }
  EXPECT_EQ(count, 4 * kLines);
}

TEST_F(MountContractTest, DirectWrites) {
  const int fd = open(Mnt("f").c_str(), O_CREAT | O_RDWR | O_DIRECT, 0644);
  ASSERT_GE(fd, 0);
  void* page = nullptr;
  ASSERT_EQ(posix_memalign(&page, 4096, 8192), 0);
  memset(page, 'd', 8192);
  EXPECT_EQ(pwrite(fd, page, 8192, 4096), 8192);
  EXPECT_EQ(pread(fd, page, 4096, 0), 4096);
  EXPECT_EQ(static_cast<char*>(page)[17], 0);
  free(page);
  close(fd);
  EXPECT_EQ(ReadFile(Mnt("f")), ReadFile(Low("f")));
  EXPECT_EQ(Stat(Mnt("f")).st_size, 12288);
}

TEST_F(MountContractTest, SharedMappingsAreCapturedByPages) {
  ASSERT_EQ(WriteFile(Mnt("f"), std::string(64 << 10, 'x')), 0);
  const size_t before = Records().size();
  int ready[2];
  int go[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(go), 0);
  std::jthread child([&] {
    EXPECT_EQ(InChild([&] {
                const int fd = open(Mnt("f").c_str(), O_RDWR);
                char* map = static_cast<char*>(
                    mmap(nullptr, 64 << 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
                if (map == MAP_FAILED) return 1;
                map[5000] = 'A';
                map[20'000] = 'B';
                char byte = 0;
                if (write(ready[1], "r", 1) != 1 || read(go[0], &byte, 1) != 1) return 2;
                map[40'000] = 'C';
                munmap(map, 64 << 10);
                close(fd);
                return 0;
              }),
              0);
  });
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_TRUE(mount_.presto().FlushMappings(absl::Seconds(20)).ok());
  std::vector<std::pair<uint64_t, uint64_t>> extents;
  auto collect = [&] {
    extents.clear();
    const auto records = Records();
    for (size_t i = before; i < records.size(); ++i) {
      for (const auto& extent : records[i].write().extents()) {
        extents.emplace_back(extent.offset(), extent.length());
      }
    }
    std::sort(extents.begin(), extents.end());  // pages come in any order
  };
  collect();
  using Extents = std::vector<std::pair<uint64_t, uint64_t>>;
  EXPECT_EQ(extents, (Extents{{4096, 4096}, {16384, 4096}}));
  EXPECT_EQ(write(go[1], "g", 1), 1);
  child.join();
  collect();
  EXPECT_EQ(extents, (Extents{{4096, 4096}, {16384, 4096}, {36864, 4096}}));
  EXPECT_EQ(ReadFile(Low("f"))[40'000], 'C');
  for (int fd : {ready[0], ready[1], go[0], go[1]}) close(fd);
}

TEST_F(MountContractTest, SyncsReachTheDisk) {
  const int fd = open(Mnt("f").c_str(), O_CREAT | O_RDWR, 0644);
  ASSERT_EQ(pwrite(fd, "x", 1, 0), 1);
  EXPECT_EQ(Errno(fsync(fd)), 0);
  EXPECT_EQ(mount_.replica().last_origin_seq(), 2u);  // the create and the write, cut by fsync
  EXPECT_EQ(Errno(fdatasync(fd)), 0);
  close(fd);
  const int dir = open(Mnt("").c_str(), O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(Errno(fsync(dir)), 0);
  close(dir);
}

TEST_F(MountContractTest, StatfsAndFlags) {
  struct statvfs above;
  struct statvfs below;
  ASSERT_EQ(statvfs(Mnt("").c_str(), &above), 0);
  ASSERT_EQ(statvfs(Low("").c_str(), &below), 0);
  EXPECT_EQ(above.f_blocks, below.f_blocks);
  EXPECT_EQ(above.f_namemax, below.f_namemax);
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  const int fd = open(Mnt("f").c_str(), O_RDONLY);
  const int low = open(Low("f").c_str(), O_RDONLY);
  int flags_above = 0;
  int flags_below = 0;
  EXPECT_EQ(Errno(ioctl(low, FS_IOC_GETFLAGS, &flags_below)), 0);
  EXPECT_EQ(Errno(ioctl(fd, FS_IOC_GETFLAGS, &flags_above)), 0);
  EXPECT_EQ(flags_above, flags_below);
  close(fd);
  close(low);
}

TEST_F(MountContractTest, NamesOfAnyBytes) {
  std::string all;
  for (int c = 1; c < 256; ++c) {
    if (c != '/') all.push_back(static_cast<char>(c));
  }
  for (const std::string& name :
       {all, std::string("\xff\xfe"), std::string("new\nline"), std::string(255, '\x80')}) {
    ASSERT_EQ(WriteFile(Mnt(name), "x"), 0);
    EXPECT_EQ(ReadFile(Low(name)), "x");
  }
  EXPECT_EQ(List(Mnt("")), List(Low("")));
}

TEST_F(MountContractTest, FewDescriptorsAreEnough) {
  MountedReplica small({.max_open_files = 64});
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(mkdir(small.Mnt("d" + std::to_string(i)).c_str(), 0755), 0);
    ASSERT_EQ(WriteFile(small.Mnt("d" + std::to_string(i) + "/f"), "x"), 0);
  }
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(ReadFile(small.Mnt("d" + std::to_string(i) + "/f")), "x");
  }
  EXPECT_LE(small.presto().open_files(), 64u);
}

TEST_F(MountContractTest, RemountShowsTheSame) {
  ASSERT_EQ(mkdir(Mnt("d").c_str(), 0755), 0);
  ASSERT_EQ(WriteFile(Mnt("d/f"), "x"), 0);
  const ino_t before = Stat(Mnt("d/f")).st_ino;
  mount_.Unmount();
  EXPECT_EQ(access(Mnt("d").c_str(), F_OK), -1);
  ASSERT_TRUE(mount_.Mount().ok());
  EXPECT_EQ(Stat(Mnt("d/f")).st_ino, before);
  EXPECT_EQ(ReadFile(Mnt("d/f")), "x");
  ASSERT_EQ(WriteFile(Mnt("d/g"), "y"), 0);
  EXPECT_EQ(Records().size(), 5u);
}

TEST_F(MountContractTest, ChangesBehindOurBackAreSeen) {
  ASSERT_EQ(mkdir(Low("intruder").c_str(), 0755), 0);
  struct stat st;
  EXPECT_EQ(Errno(lstat(Mnt("intruder").c_str(), &st)), EIO);
  EXPECT_EQ(List(Mnt("")).count("intruder"), 1u);
}

TEST(MountOptionsTest, AnsweredOpensCutAtClose) {
  MountedReplica mount({.answer_opens = true});
  ASSERT_EQ(WriteFile(mount.Mnt("f"), "hello"), 0);
  // close(2) has returned: the record is there without any cut of ours.
  EXPECT_EQ(mount.replica().last_origin_seq(), 2u);
  EXPECT_EQ(ReadFile(mount.Mnt("f")), "hello");
  EXPECT_EQ(std::filesystem::exists(mount.Mnt("f")), true);
}

TEST(MountOptionsTest, TheKernelLeavesClearingPrivilegesToTheDriver) {
  // With metrics, too: the device's state is apart from the driver's options.
  for (const bool metrics : {false, true}) {
    MountedReplica mount({.metrics = metrics ? std::make_shared<prometheus::Registry>() : nullptr});
    ASSERT_EQ(WriteFile(mount.Mnt("f"), "hello"), 0);
    EXPECT_TRUE(mount.presto().clears_privileges());
  }
}

}  // namespace
}  // namespace intermezzo::tests
