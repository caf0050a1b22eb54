// What one node captured, applied on another: the trees become the same, the tables too; entries
// that are wrong, doubled or in conflict change nothing.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "tests/support/record_chain.h"
#include "tests/support/test_node.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::Entry;
using record::v1::Record;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using tests::CompareTrees;
using tests::DigestTree;
using tests::TableOf;
using tests::TestNode;

// An ACL in the kernel's form: version 2, then (tag, permissions, id).
std::string Acl(std::initializer_list<std::array<uint32_t, 3>> entries) {
  std::string bytes("\2\0\0\0", 4);
  for (const auto& [tag, permissions, id] : entries) {
    for (uint32_t value : {tag, permissions}) {
      bytes.push_back(static_cast<char>(value & 0xff));
      bytes.push_back(static_cast<char>(value >> 8));
    }
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(id >> shift));
  }
  return bytes;
}
constexpr uint32_t kNoId = 0xffffffff;
const std::string kAcl =
    Acl({{1, 7, kNoId}, {2, 5, 1234}, {4, 4, kNoId}, {16, 5, kNoId}, {32, 0, kNoId}});

class ReplicaApplyTest : public ::testing::Test {
 protected:
  // Everything that A did reaches the journal and both nodes.
  void Sync() {
    journal_.Pull(a_.replica());
    ASSERT_TRUE(Status(journal_.Feed(b_.replica())));
    ASSERT_TRUE(Status(journal_.Feed(a_.replica())));
    EXPECT_THAT(CompareTrees(a_.lower_path(), b_.lower_path()), IsEmpty());
    EXPECT_EQ(TableOf(a_.replica()), TableOf(b_.replica()));
    EXPECT_EQ(a_.replica().pending_records(), 0u);
    EXPECT_EQ(a_.replica().confirmed_origin_seq(), a_.replica().last_origin_seq());
    EXPECT_EQ(a_.replica().chain(), b_.replica().chain());
    EXPECT_THAT(a_.replica().db().ReadLocal(0, 1, 1), IsEmpty());
  }
  static ::testing::AssertionResult Status(const absl::Status& status) {
    if (status.ok()) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << status;
  }
  // Applying the next entry on B fails so, and changes nothing.
  void ExpectRefused(const Entry& entry, absl::StatusCode code, const std::string& message) {
    const auto tree = DigestTree(b_.lower_path());
    const auto table = TableOf(b_.replica());
    const Seq cursor = b_.replica().cursor();
    const absl::Status status = b_.replica().Apply(entry);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(DigestTree(b_.lower_path()), tree);
    EXPECT_EQ(TableOf(b_.replica()), table);
    EXPECT_EQ(b_.replica().cursor(), cursor);
  }
  // Applies the next entry on B with the commit lost, then once more after a restart.
  void CrashAndRedo() {
    auto entry = journal_.NextFor(b_.replica());
    ASSERT_NE(entry, nullptr);
    b_.commit_failure() = absl::UnavailableError("crashed");
    EXPECT_FALSE(b_.replica().Apply(*entry).ok());
    b_.commit_failure() = absl::OkStatus();
    b_.Reopen();
    EXPECT_TRUE(Status(b_.replica().Apply(*entry)));
  }

  TestNode a_{3};
  TestNode b_{4};
  tests::RecordChain journal_;
};

TEST_F(ReplicaApplyTest, EveryKindOfObjectWithAllItsAttributes) {
  ASSERT_EQ(a_.Mkdir("d", 02775), 0);
  ASSERT_EQ(a_.Chown("d", 1000, 1001), 0);
  ASSERT_EQ(a_.Create("d/file", 06711), 0);
  ASSERT_EQ(a_.Symlink("nowhere/at all", "d/link"), 0);
  ASSERT_EQ(a_.Chown("d/link", 7, 8), 0);
  ASSERT_EQ(a_.Utimens("d/link", {5, 6}, {7, 8}), 0);
  ASSERT_EQ(a_.Mknod("fifo", S_IFIFO | 0640, 0), 0);
  ASSERT_EQ(a_.Mknod("socket", S_IFSOCK | 0600, 0), 0);
  ASSERT_EQ(a_.Mknod("char", S_IFCHR | 0666, makedev(300, 70'000)), 0);
  ASSERT_EQ(a_.Mknod("block", S_IFBLK | 0660, makedev(8, 1)), 0);
  ASSERT_EQ(a_.Create("\x01\xff strange\nname", 0), 0);
  ASSERT_EQ(a_.Create(std::string(255, 'n'), 0644), 0);
  Sync();
}

TEST_F(ReplicaApplyTest, Content) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Write("f", 0, "hello"), 0);
  ASSERT_EQ(a_.Write("f", 1 << 20, std::string(3 << 20, 'z')), 0);
  ASSERT_EQ(a_.Write("f", (16 << 20) + 13, "\0\0\0end"), 0);
  Sync();
  ASSERT_EQ(a_.Truncate("f", 4097), 0);
  Sync();
  ASSERT_EQ(a_.Truncate("f", 1 << 22), 0);
  ASSERT_EQ(a_.Fallocate("f", 0, 8192, 100'000), 0);
  ASSERT_EQ(a_.Write("f", 16'384, std::string(65'536, 'q')), 0);
  ASSERT_EQ(a_.Fallocate("f", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 20'000, 30'000), 0);
  ASSERT_EQ(a_.Fallocate("f", FALLOC_FL_ZERO_RANGE, 60'000, 8192), 0);
  Sync();
}

// xfs sets the time of directories that an exchange moves to another parent.
TEST_F(ReplicaApplyTest, ExchangedDirectoriesHaveTheTimesOfTheOrigin) {
  for (const char* name : {"d", "e", "d/x", "e/y"}) ASSERT_EQ(a_.Mkdir(name, 0755), 0);
  Sync();
  ASSERT_EQ(a_.Rename("d/x", "e/y", RENAME_EXCHANGE), 0);
  journal_.Pull(a_.replica());
  auto entry = journal_.NextFor(b_.replica());
  ASSERT_NE(entry, nullptr);
  // B dies between effect and commit; its file system set the times.
  b_.commit_failure() = absl::UnavailableError("crashed");
  EXPECT_FALSE(b_.replica().Apply(*entry).ok());
  b_.commit_failure() = absl::OkStatus();
  const struct timespec times[2] = {{5, 6}, {7, 8}};
  for (const char* name : {"d/x", "e/y"}) {
    ASSERT_EQ(utimensat(AT_FDCWD, b_.Path(name).c_str(), times, 0), 0);
  }
  b_.Reopen();
  Sync();
}

TEST_F(ReplicaApplyTest, AttributesOfTheLocalFileSystemAreNotShared) {
  for (const char* name : {"user.a", "trusted.SGI", "security.b", "system.posix_acl_default"}) {
    EXPECT_TRUE(IsSharedXattr(name)) << name;
  }
  for (const char* name : {"btrfs.compression", "system.nfs4_acl", "trusted.SGI_ACL_DEFAULT"}) {
    EXPECT_FALSE(IsSharedXattr(name)) << name;
  }
  // xfs keeps its ACLs under this name; on others it is like any.
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Setxattr("f", "system.posix_acl_access", kAcl), 0);
  if (a_.Setxattr("f", "trusted.SGI_ACL_FILE", "x") == 0) {
    ASSERT_EQ(a_.Removexattr("f", "trusted.SGI_ACL_FILE"), 0);
  }
  Sync();
  for (const Entry& entry : journal_.entries()) {
    EXPECT_EQ(entry.record().find("SGI_ACL"), std::string::npos);
  }
}

TEST_F(ReplicaApplyTest, LinksAndRenames) {
  ASSERT_EQ(a_.Create("a", 0644), 0);
  ASSERT_EQ(a_.Write("a", 0, "content"), 0);
  ASSERT_EQ(a_.Link("a", "b"), 0);
  ASSERT_EQ(a_.Mkdir("d", 0755), 0);
  ASSERT_EQ(a_.Mkdir("e", 0700), 0);
  ASSERT_EQ(a_.Link("b", "d/c"), 0);
  Sync();
  ASSERT_EQ(a_.Unlink("a"), 0);
  ASSERT_EQ(a_.Rename("d", "e/moved"), 0);
  ASSERT_EQ(a_.Create("x", 0600), 0);
  ASSERT_EQ(a_.Rename("x", "e/moved/c"), 0);
  Sync();
  ASSERT_EQ(a_.Mkdir("f", 0700), 0);
  ASSERT_EQ(a_.Rename("b", "f", RENAME_EXCHANGE), 0);
  ASSERT_EQ(a_.Rename("f", "g", RENAME_NOREPLACE), 0);
  ASSERT_EQ(a_.Rename("g", "h", RENAME_WHITEOUT), 0);
  ASSERT_EQ(a_.Mkdir("empty", 0755), 0);
  ASSERT_EQ(a_.Rename("e/moved", "empty"), 0) << "a directory over an empty one";
  Sync();
  ASSERT_EQ(a_.Unlink("empty/c"), 0);
  ASSERT_EQ(a_.Rmdir("empty"), 0);
  ASSERT_EQ(a_.Unlink("h"), 0);
  Sync();
}

TEST_F(ReplicaApplyTest, AttributesXattrsAndAcls) {
  ASSERT_EQ(a_.Mkdir("d", 0755), 0);
  ASSERT_EQ(a_.Setxattr("d", "system.posix_acl_default", kAcl), 0);
  ASSERT_EQ(a_.Create("d/inherits", 0664), 0);
  ASSERT_EQ(a_.Mkdir("d/too", 0775), 0);
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Setxattr("f", "user.a", ""), 0);
  ASSERT_EQ(a_.Setxattr("f", "trusted.b", std::string(3000, 'v')), 0);
  ASSERT_EQ(a_.Setxattr("f", "system.posix_acl_access", kAcl), 0);
  Sync();
  ASSERT_EQ(a_.Chmod("f", 04555), 0);
  ASSERT_EQ(a_.Chown("f", 12, 34), 0);
  ASSERT_EQ(a_.Utimens("f", {1, 2}, {-3, 4}), 0);
  ASSERT_EQ(a_.Removexattr("f", "user.a"), 0);
  ASSERT_EQ(a_.Removexattr("f", "system.posix_acl_access"), 0);
  Sync();
  struct stat st;
  ASSERT_EQ(stat(b_.Path("f").c_str(), &st), 0);
  EXPECT_EQ(st.st_atim.tv_sec, 1);
  EXPECT_EQ(st.st_atim.tv_nsec, 2);
}

TEST_F(ReplicaApplyTest, WritersTakeTurns) {
  for (int round = 0; round < 5; ++round) {
    TestNode& writer = round % 2 == 0 ? a_ : b_;
    const std::string name = absl::StrCat("f", round);
    ASSERT_EQ(writer.Create(name, 0644), 0);
    ASSERT_EQ(writer.Write("f0", round, name), 0);
    if (round > 1) {
      ASSERT_EQ(writer.Rename(absl::StrCat("f", round - 1), "f0", RENAME_EXCHANGE), 0);
    }
    journal_.Pull(writer.replica());
    ASSERT_TRUE(Status(journal_.Feed(b_.replica())));
    ASSERT_TRUE(Status(journal_.Feed(a_.replica())));
    EXPECT_THAT(CompareTrees(a_.lower_path(), b_.lower_path()), IsEmpty());
    EXPECT_EQ(TableOf(a_.replica()), TableOf(b_.replica()));
  }
}

TEST_F(ReplicaApplyTest, EachOperationIsRedoneAfterACrashBeforeItsCommit) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Mkdir("d", 0750), 0);
  ASSERT_EQ(a_.Symlink("x", "s"), 0);
  ASSERT_EQ(a_.Mknod("p", S_IFIFO | 0600, 0), 0);
  ASSERT_EQ(a_.Write("f", 100, "bytes"), 0);
  ASSERT_EQ(a_.Link("f", "d/g"), 0);
  ASSERT_EQ(a_.Rename("f", "h"), 0);
  ASSERT_EQ(a_.Rename("h", "s", RENAME_EXCHANGE), 0);
  ASSERT_EQ(a_.Rename("p", "q", RENAME_WHITEOUT), 0);
  ASSERT_EQ(a_.Rename("q", "h"), 0);
  ASSERT_EQ(a_.Truncate("s", 50), 0);
  ASSERT_EQ(a_.Fallocate("s", 0, 0, 9000), 0);
  ASSERT_EQ(a_.Chmod("s", 0600), 0);
  ASSERT_EQ(a_.Setxattr("s", "user.x", "y"), 0);
  ASSERT_EQ(a_.Removexattr("s", "user.x"), 0);
  ASSERT_EQ(a_.Unlink("d/g"), 0);
  ASSERT_EQ(a_.Unlink("s"), 0);
  ASSERT_EQ(a_.Rmdir("d"), 0);
  journal_.Pull(a_.replica());
  while (b_.replica().cursor().value() < journal_.entries().size()) CrashAndRedo();
  Sync();
}

TEST_F(ReplicaApplyTest, EntriesOutOfOrderOrBroken) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Write("f", 0, "content"), 0);
  ASSERT_TRUE(a_.replica().CutAll().ok());
  ASSERT_EQ(a_.Chmod("f", 0600), 0);
  journal_.Pull(a_.replica());
  const std::vector<Entry>& entries = journal_.entries();
  ExpectRefused(entries[1], absl::StatusCode::kOutOfRange, "does not follow");
  Entry broken = entries[0];
  broken.set_chain(std::string(16, 'x'));
  ExpectRefused(broken, absl::StatusCode::kDataLoss, "chain");
  broken = entries[0];
  broken.mutable_record()->back() ^= 1;
  EXPECT_FALSE(b_.replica().Apply(broken).ok());
  broken.clear_record();
  ExpectRefused(broken, absl::StatusCode::kInvalidArgument, "record");
  broken.set_seq(0);
  ExpectRefused(broken, absl::StatusCode::kInvalidArgument, "seq");
  ASSERT_TRUE(Status(b_.replica().Apply(entries[0])));
  EXPECT_TRUE(Status(b_.replica().Apply(entries[0]))) << "applied already: ignored";
  broken = entries[1];
  broken.mutable_payload()->front() ^= 1;
  ExpectRefused(broken, absl::StatusCode::kDataLoss, "payload");
  broken = entries[1];
  broken.clear_payload();
  ExpectRefused(broken, absl::StatusCode::kDataLoss, "payload");
  Sync();
}

// A journal that lies: the record is well formed and chained, and does not fit.
TEST_F(ReplicaApplyTest, RecordsThatDoNotFitTheTable) {
  ASSERT_EQ(a_.Mkdir("d", 0755), 0);
  ASSERT_EQ(a_.Create("d/f", 0644), 0);
  Sync();
  ASSERT_EQ(a_.Chmod("d/f", 0600), 0);
  auto local = a_.replica().db().ReadLocal(0, 1, 1);
  Record record = *OpenRecord(local[0].second);
  auto chained = [&](const Record& lie) {
    Entry entry = SealEntry(lie, "");
    const Seq seq = b_.replica().cursor().next();
    entry.set_seq(seq.value());
    entry.set_chain(ChainHash(b_.replica().chain(), seq, entry.record()));
    return entry;
  };
  record.mutable_touches(0)->set_against(5);
  ExpectRefused(chained(record), absl::StatusCode::kDataLoss, "version 5");

  Record rmdir;
  rmdir.set_version(record.version());
  *rmdir.mutable_time() = record.time();
  rmdir.mutable_remove()->set_parent(kRootObject.value());
  rmdir.mutable_remove()->set_name("d");
  rmdir.mutable_remove()->set_object(a_.IdOf("d").value());
  rmdir.mutable_remove()->set_directory(true);
  rmdir.mutable_remove()->set_last(true);
  *rmdir.mutable_remove()->mutable_parent_mtime() = record.time();
  auto state_versions = [&](Record& r) {
    r.clear_touches();
    for (record::v1::Touch& touch : RequiredTouches(r)) {
      auto row = b_.replica().db().Object(ObjectId(touch.object()));
      auto entry = b_.replica().db().Entry(ObjectId(touch.object()), touch.name());
      touch.set_against(touch.aspect() == record::v1::ASPECT_ENTRY
                            ? (entry.has_value() ? entry->version() : 0)
                        : touch.aspect() == record::v1::ASPECT_DATA ? row->data_version()
                                                                    : row->attributes_version());
      *r.add_touches() = touch;
    }
  };
  state_versions(rmdir);
  ExpectRefused(chained(rmdir), absl::StatusCode::kDataLoss, "not so here");
  rmdir.mutable_remove()->set_object(a_.IdOf("d/f").value());
  rmdir.mutable_remove()->set_directory(false);
  state_versions(rmdir);
  ExpectRefused(chained(rmdir), absl::StatusCode::kDataLoss, "is object");
}

TEST_F(ReplicaApplyTest, AFileOfUnknownContentIsNotOverwritten) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  std::ofstream(b_.Path("f")) << "somebody's";
  journal_.Pull(a_.replica());
  ExpectRefused(journal_.entries()[0], absl::StatusCode::kDataLoss, "no record made");
  ASSERT_EQ(unlink(b_.Path("f").c_str()), 0);
  Sync();
}

TEST_F(ReplicaApplyTest, ARestoredDatabaseIsNoticed) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  Sync();
  // The journal has a record of B that B's database does not know.
  Record record = *OpenRecord(journal_.entries()[0]);
  record.set_version(Version(Ordinal(4), 1).value());
  Entry entry = SealEntry(record, "");
  entry.set_seq(2);
  entry.set_chain(ChainHash(b_.replica().chain(), Seq(2), entry.record()));
  ExpectRefused(entry, absl::StatusCode::kFailedPrecondition, "old image");
  // And one where B's own record of that number is another one.
  ASSERT_EQ(b_.Create("g", 0644), 0);
  ExpectRefused(entry, absl::StatusCode::kFailedPrecondition, "old image");
}

TEST_F(ReplicaApplyTest, AFailedCommitClosesTheReplicaForGood) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  a_.commit_failure() = absl::ResourceExhaustedError("disk full");
  EXPECT_EQ(a_.Create("g", 0644), EIO);
  EXPECT_FALSE(a_.replica().failure().ok());
  EXPECT_FALSE(a_.replica().gate().is_open());
  a_.commit_failure() = absl::OkStatus();
  EXPECT_EQ(a_.Create("h", 0644), EROFS) << "nothing passes the gate";
  EXPECT_EQ(a_.replica().last_origin_seq(), a_.replica().db().State().last_origin_seq());
}

// What presto is told.
class RecordingPresto : public Presto {
 public:
  absl::Status Mount() override { return absl::OkStatus(); }
  void Unmount(absl::Duration) override {}
  void Invalidate(Invalidation what) override { last = std::move(what); }
  void BeforeRemoval(ObjectId object) override { removals.push_back(object); }
  absl::Status FlushMappings(absl::Duration) override { return absl::OkStatus(); }
  std::string kind() const override { return "recording"; }

  bool StaleName(ObjectId parent, const std::string& name) const {
    return std::any_of(last.entries.begin(), last.entries.end(), [&](const auto& entry) {
      return entry.parent == parent && entry.name == name;
    });
  }
  // The stale range of an object as "offset+length"; empty: not stale.
  std::string Stale(ObjectId id) const {
    for (const auto& object : last.objects) {
      if (object.id == id) return absl::StrCat(object.offset, "+", object.length);
    }
    return "";
  }

  Invalidation last;
  std::vector<ObjectId> removals;
};

TEST_F(ReplicaApplyTest, PrestoIsToldWhatBecameStale) {
  RecordingPresto presto;
  b_.replica().SetPresto(&presto);
  ASSERT_EQ(a_.Create("f", 0644), 0);
  Sync();
  const ObjectId file = a_.IdOf("f");
  EXPECT_TRUE(presto.StaleName(kRootObject, "f"));
  EXPECT_EQ(presto.Stale(kRootObject), "0+0") << "the directory's listing";
  ASSERT_EQ(a_.Write("f", 100, "0123456789"), 0);
  Sync();
  EXPECT_EQ(presto.Stale(file), "100+10");
  ASSERT_EQ(a_.Truncate("f", 7), 0);
  Sync();
  EXPECT_EQ(presto.Stale(file), "7+-1");
  ASSERT_EQ(a_.Rename("f", "g"), 0);
  Sync();
  EXPECT_TRUE(presto.StaleName(kRootObject, "f"));
  EXPECT_TRUE(presto.StaleName(kRootObject, "g"));
  ASSERT_EQ(a_.Link("g", "h"), 0);
  ASSERT_EQ(a_.Unlink("g"), 0);
  Sync();
  EXPECT_THAT(presto.removals, IsEmpty());
  ASSERT_EQ(a_.Unlink("h"), 0);
  Sync();
  EXPECT_THAT(presto.removals, ::testing::ElementsAre(file));
  b_.replica().SetPresto(nullptr);
}

TEST_F(ReplicaApplyTest, TailAfterAFuzzySnapshotIsAppliedTolerantly) {
  ASSERT_EQ(a_.Create("f", 0644), 0);
  Sync();
  ASSERT_EQ(a_.Write("f", 0, "one"), 0);
  ASSERT_TRUE(a_.replica().CutAll().ok());
  ASSERT_EQ(a_.Write("f", 0, "three"), 0);
  ASSERT_EQ(a_.Chmod("f", 0600), 0);
  journal_.Pull(a_.replica());
  // B's copy of the file was read after the first write, its table row too.
  std::ofstream(b_.Path("f")) << "three";
  const ObjectId file = b_.IdOf("f");
  {
    absl::MutexLock lock(&b_.replica().update_lock());
    auto batch = b_.replica().mutable_db().NewBatch();
    auto row = *b_.replica().db().Object(file);
    row.set_data_version(Version(Ordinal(3), 2).value());
    batch->PutObject(file, row);
    auto state = b_.replica().state();
    state.set_redo_until_seq(journal_.entries().size() - 1);
    batch->PutState(state);
    ASSERT_TRUE(b_.replica().mutable_db().Commit(std::move(batch), false).ok());
    ASSERT_TRUE(b_.replica().ReloadState().ok());
  }
  Sync();
  EXPECT_EQ(b_.replica().db().State().redo_until_seq(), 0u);
}

TEST_F(ReplicaApplyTest, AnUpdateMadeFromAnOpHasItsTimesOnAllReplicas) {
  ASSERT_EQ(a_.Mkdir("d", 0755), 0);
  ASSERT_EQ(a_.Create("d/pending", 0644), 0);
  {
    absl::MutexLock lock(&a_.replica().update_lock());
    Record op;
    op.mutable_create()->set_parent(a_.IdOf("d").value());
    op.mutable_create()->set_name("made");
    op.mutable_create()->set_object(a_.replica().NewObjectId().value());
    op.mutable_create()->set_kind(record::v1::OBJECT_KIND_FILE);
    op.mutable_create()->mutable_attributes()->set_mode(0640);
    op.mutable_create()->mutable_attributes()->mutable_mtime()->set_seconds(9);
    op.mutable_create()->mutable_parent_mtime()->set_seconds(5);
    ASSERT_TRUE(Status(a_.replica().MakeUpdate(op, "", [](NodeDb::Batch&) {})));
  }
  struct stat st;
  ASSERT_EQ(stat(a_.Path("d").c_str(), &st), 0);
  EXPECT_EQ(st.st_mtim.tv_sec, 5);
  Sync();
}

// Full disks: nothing changed, and the same entry goes in when there is room.
TEST_F(ReplicaApplyTest, AFullDiskChangesNothing) {
  auto mount_small = [](const std::string& path) {
    ASSERT_EQ(mount("tmpfs", path.c_str(), "tmpfs", 0, "size=64k,nr_inodes=3,mode=755"), 0);
  };
  TestNode small(5, mount_small);
  absl::Cleanup unmount = [&small] {
    small.Close();
    umount2(small.lower_path().c_str(), MNT_DETACH);
  };
  auto full = [&](const std::string& options) {
    const auto tree = DigestTree(small.lower_path());
    const Seq cursor = small.replica().cursor();
    const absl::Status status = small.replica().Apply(*journal_.NextFor(small.replica()));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(DigestTree(small.lower_path()), tree);
    EXPECT_EQ(small.replica().cursor(), cursor);
    EXPECT_TRUE(small.replica().failure().ok());
    ASSERT_EQ(mount("", small.lower_path().c_str(), nullptr, MS_REMOUNT, options.c_str()), 0);
    EXPECT_TRUE(Status(small.replica().Apply(*journal_.NextFor(small.replica()))));
  };
  ASSERT_EQ(a_.Create("f", 0644), 0);
  ASSERT_EQ(a_.Mkdir("d", 0755), 0);
  ASSERT_EQ(a_.Create("d/g", 0600), 0);
  journal_.Pull(a_.replica());
  ASSERT_TRUE(Status(small.replica().Apply(*journal_.NextFor(small.replica()))));
  ASSERT_TRUE(Status(small.replica().Apply(*journal_.NextFor(small.replica()))));
  full("size=64k,nr_inodes=100");
  ASSERT_EQ(a_.Write("f", 0, std::string(200'000, 'x')), 0);
  journal_.Pull(a_.replica());
  full("size=1m,nr_inodes=100");
  EXPECT_THAT(CompareTrees(a_.lower_path(), small.lower_path(), {.holes = false}), IsEmpty());
}

// ---- records that meet pending local ones ------------------------------------------------------

class ReplicaConflictTest : public ReplicaApplyTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(a_.Mkdir("d", 0755), 0);
    ASSERT_EQ(a_.Mkdir("e", 0755), 0);
    ASSERT_EQ(a_.Create("f", 0644), 0);
    ASSERT_EQ(a_.Link("f", "f2"), 0);
    Sync();
  }
  // A's next record meets what B did.
  void ExpectConflict(const std::string& message = "meets pending local record") {
    ASSERT_TRUE(b_.replica().CutAll().ok());
    const size_t before = journal_.entries().size();
    journal_.Pull(a_.replica());
    ASSERT_GT(journal_.entries().size(), before);
    ExpectRefused(*journal_.NextFor(b_.replica()), absl::StatusCode::kAborted, message);
    b_.Reopen();
    ExpectRefused(*journal_.NextFor(b_.replica()), absl::StatusCode::kAborted, message);
  }
};

TEST_F(ReplicaConflictTest, WriteWrite) {
  ASSERT_EQ(b_.Write("f", 0, "b"), 0);
  ASSERT_EQ(a_.Write("f", 0, "a"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, AttributesAttributes) {
  ASSERT_EQ(b_.Chmod("f", 0600), 0);
  ASSERT_EQ(a_.Chmod("f", 0400), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, NameName) {
  ASSERT_EQ(b_.Create("new", 0644), 0);
  ASSERT_EQ(a_.Mkdir("new", 0755), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, CreateInARemovedDirectory) {
  ASSERT_EQ(b_.Rmdir("d"), 0);
  ASSERT_EQ(a_.Create("d/x", 0644), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, RemovalOfADirectoryInUse) {
  ASSERT_EQ(b_.Create("d/x", 0644), 0);
  ASSERT_EQ(a_.Rmdir("d"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, ReplacementOfADirectoryInUse) {
  ASSERT_EQ(b_.Create("d/x", 0644), 0);
  ASSERT_EQ(a_.Rename("e", "d"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, RemoveAgainstWrite) {
  ASSERT_EQ(b_.Write("f", 0, "b"), 0);
  ASSERT_EQ(a_.Unlink("f"), 0);
  journal_.Pull(a_.replica());
  ASSERT_TRUE(b_.replica().CutAll().ok());
  ASSERT_TRUE(Status(journal_.Feed(b_.replica()))) << "not the last name: no conflict";
  ASSERT_EQ(a_.Unlink("f2"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, BothTakeOneOfTwoNames) {
  ASSERT_EQ(b_.Unlink("f"), 0);
  ASSERT_EQ(a_.Unlink("f2"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, RenameRename) {
  ASSERT_EQ(b_.Rename("d", "d-of-b"), 0);
  ASSERT_EQ(a_.Rename("d", "d-of-a"), 0);
  ExpectConflict();
}

TEST_F(ReplicaConflictTest, RenameCycle) {
  ASSERT_EQ(b_.Rename("d", "e/d"), 0);
  ASSERT_EQ(a_.Rename("e", "d/e"), 0);
  ExpectConflict("below itself");
}

TEST_F(ReplicaConflictTest, BytesWithoutARecordYet) {
  ASSERT_EQ(a_.Write("f", 0, "a"), 0);
  journal_.Pull(a_.replica());
  auto entry = journal_.NextFor(b_.replica());
  ASSERT_EQ(b_.Write("f", 0, "b"), 0);
  EXPECT_EQ(b_.replica().Apply(*entry).code(), absl::StatusCode::kAborted)
      << "whether the cutter was faster or not";
}

TEST_F(ReplicaConflictTest, WhatDoesNotMeetIsAppliedAndBothEndTheSame) {
  ASSERT_EQ(b_.Create("d/of-b", 0644), 0);
  ASSERT_EQ(b_.Write("f", 3, "b"), 0);
  ASSERT_EQ(b_.Utimens("e", {1, 1}, {2, 2}), 0);
  ASSERT_EQ(a_.Create("d/of-a", 0644), 0);
  ASSERT_EQ(a_.Chmod("f", 0755), 0);
  ASSERT_EQ(a_.Create("e/of-a", 0600), 0);
  journal_.Pull(a_.replica());
  ASSERT_TRUE(b_.replica().CutAll().ok());
  ASSERT_TRUE(Status(journal_.Feed(b_.replica())));
  journal_.Pull(b_.replica());
  ASSERT_TRUE(Status(journal_.Feed(a_.replica())));
  ASSERT_TRUE(Status(journal_.Feed(b_.replica())));
  EXPECT_THAT(CompareTrees(a_.lower_path(), b_.lower_path()), IsEmpty());
  EXPECT_EQ(TableOf(a_.replica()), TableOf(b_.replica()));
}

}  // namespace
}  // namespace intermezzo::sidecar
