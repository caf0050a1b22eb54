// What the replica journals of each local update: record, touches with the versions they were made
// against, rows. On a real directory.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/common/record/codec.h"
#include "tests/support/eventually.h"
#include "tests/support/test_node.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::Record;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using tests::TestNode;

class ReplicaCaptureTest : public ::testing::Test {
 protected:
  struct Captured {
    Record record;
    std::string payload;
  };
  // Records since the last call.
  std::vector<Captured> Take() {
    EXPECT_TRUE(node_.replica().CutAll().ok());
    std::vector<Captured> captured;
    for (const auto& [seq, entry] : node_.replica().db().ReadLocal(seen_, 1000, 1 << 30)) {
      absl::StatusOr<Record> record = OpenRecord(entry);
      EXPECT_TRUE(record.ok()) << record.status();
      if (!record.ok()) continue;
      EXPECT_EQ(record->version(), V(seq));
      absl::StatusOr<std::string> payload = OpenPayload(entry, *record);
      EXPECT_TRUE(payload.ok()) << payload.status();
      seen_ = seq;
      if (record->has_write() && record->write().object() == occupied_) continue;
      captured.push_back({*record, payload.value_or("")});
    }
    return captured;
  }
  Record TakeOne() {
    std::vector<Captured> captured = Take();
    EXPECT_THAT(captured, SizeIs(1));
    return captured.empty() ? Record() : captured[0].record;
  }
  static std::vector<uint64_t> Against(const Record& record) {
    std::vector<uint64_t> against;
    for (const auto& touch : record.touches()) against.push_back(touch.against());
    return against;
  }
  // Leaves a byte of the file "occupied" to the cutter, which then waits for the update lock that
  // the caller holds; so it leaves alone what is written until that is released.
  // Its record is left out of what Take() returns.
  void OccupyCutter() {
    occupied_ = node_.IdOf("occupied").value();
    ASSERT_EQ(node_.Write("occupied", 0, "x"), 0);
  }
  static uint64_t V(uint64_t origin_seq) { return Version(Ordinal(3), origin_seq).value(); }

  TestNode node_{3};
  uint64_t seen_ = 0;
  uint64_t occupied_ = 0;
};

TEST_F(ReplicaCaptureTest, CreateStatesEverythingAReplicaNeeds) {
  ASSERT_EQ(node_.Create("a", 04751), 0);
  Record record = TakeOne();
  struct stat st;
  struct stat root;
  ASSERT_EQ(lstat(node_.Path("a").c_str(), &st), 0);
  ASSERT_EQ(stat(node_.lower_path().c_str(), &root), 0);
  EXPECT_EQ(record.epoch(), 1u);
  ASSERT_TRUE(record.has_create());
  EXPECT_EQ(record.create().parent(), kRootObject.value());
  EXPECT_EQ(record.create().name(), "a");
  EXPECT_EQ(record.create().object(), ObjectId(Ordinal(3), 1).value());
  EXPECT_EQ(record.create().kind(), record::v1::OBJECT_KIND_FILE);
  EXPECT_EQ(record.create().attributes().mode(), 04751u);
  EXPECT_EQ(record.create().attributes().mtime().nanos(), st.st_mtim.tv_nsec);
  EXPECT_EQ(record.create().parent_mtime().nanos(), root.st_mtim.tv_nsec);
  EXPECT_THAT(Against(record), ElementsAre(0, 0, 0));

  auto row = node_.replica().db().Object(ObjectId(Ordinal(3), 1));
  ASSERT_TRUE(row.has_value());
  EXPECT_EQ(row->inode(), st.st_ino);
  EXPECT_EQ(row->data_version(), V(1));
  EXPECT_EQ(row->attributes_version(), V(1));
  EXPECT_EQ(row->links_size(), 1);
  EXPECT_EQ(node_.replica().db().Entry(kRootObject, "a")->version(), V(1));
  EXPECT_EQ(node_.replica().pending_records(), 1u);
}

TEST_F(ReplicaCaptureTest, SpecialFilesAndSymlinks) {
  ASSERT_EQ(node_.Mknod("dev", S_IFCHR | 0600, makedev(0x123, 0x45678)), 0);
  ASSERT_EQ(node_.Mknod("fifo", S_IFIFO | 0644, 0), 0);
  ASSERT_EQ(node_.Symlink("../far away", "link"), 0);
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(3));
  EXPECT_EQ(DecodeDevice(captured[0].record.create().rdev()), makedev(0x123, 0x45678));
  EXPECT_EQ(captured[1].record.create().kind(), record::v1::OBJECT_KIND_FIFO);
  EXPECT_EQ(captured[2].record.create().symlink_target(), "../far away");
}

TEST_F(ReplicaCaptureTest, WritesBecomeExtentsWithTheBytesReadBack) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Create("occupied", 0644), 0);
  Take();
  {
    absl::MutexLock lock(&node_.replica().update_lock());
    OccupyCutter();
    ASSERT_EQ(node_.Write("a", 10'000, "later"), 0);
    ASSERT_EQ(node_.Write("a", 0, "first"), 0);
    ASSERT_EQ(node_.Write("a", 3, "STUVW"), 0);
  }
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(1));
  const record::v1::WriteOp& op = captured[0].record.write();
  ASSERT_EQ(op.extents_size(), 2);
  EXPECT_EQ(op.extents(0).offset(), 0u);
  EXPECT_EQ(op.extents(0).length(), 8u);
  EXPECT_EQ(op.extents(1).offset(), 10'000u);
  EXPECT_EQ(op.size(), 10'005u);
  EXPECT_EQ(captured[0].payload, "firSTUVWlater");
  EXPECT_THAT(Against(captured[0].record), ElementsAre(V(1)));
  EXPECT_EQ(node_.replica().db().Object(node_.IdOf("a"))->data_version(),
            captured[0].record.version());
}

TEST_F(ReplicaCaptureTest, LargeWritesAreSeveralRecords) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  {
    absl::MutexLock lock(&node_.replica().update_lock());
    ASSERT_EQ(node_.Write("a", 5, std::string(kMaxPayloadBytes * 2 + 7, 'x')), 0);
  }
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(4));
  EXPECT_EQ(captured[1].payload.size(), kMaxPayloadBytes);
  EXPECT_EQ(captured[3].payload.size(), 7u);
}

TEST_F(ReplicaCaptureTest, WhatATruncationCutOffIsNotSent) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Create("occupied", 0644), 0);
  Take();
  {
    absl::MutexLock lock(&node_.replica().update_lock());
    OccupyCutter();
    ASSERT_EQ(node_.Write("a", 0, "0123456789"), 0);
    ASSERT_EQ(truncate(node_.Path("a").c_str(), 4), 0);
  }
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(1));
  EXPECT_EQ(captured[0].payload, "0123");
}

TEST_F(ReplicaCaptureTest, ScatteredWritesLeaveHolesHoles) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Create("occupied", 0644), 0);
  Take();
  constexpr uint64_t kWrites = 200;
  {
    absl::MutexLock lock(&node_.replica().update_lock());
    OccupyCutter();
    for (uint64_t i = 0; i < kWrites; ++i) {
      ASSERT_EQ(node_.Write("a", (i * 7919 % kWrites) << 24, "here"), 0);
    }
  }
  uint64_t sent = 0;
  std::set<uint64_t> covered;
  for (const Captured& captured : Take()) {
    sent += captured.payload.size();
    for (const auto& extent : captured.record.write().extents()) covered.insert(extent.offset());
  }
  EXPECT_EQ(covered.size(), kWrites);
  EXPECT_LE(sent, 4096 * kWrites) << "at most a block for each write";
}

TEST_F(ReplicaCaptureTest, TheThreadCutsByItself) {
  absl::Notification progressed;
  ASSERT_EQ(node_.Create("a", 0644), 0);
  node_.replica().SetProgressCallback([&] {
    if (!progressed.HasBeenNotified()) progressed.Notify();
  });
  ASSERT_EQ(node_.Write("a", 0, "x"), 0);
  EXPECT_TRUE(progressed.WaitForNotificationWithTimeout(absl::Seconds(30)));
  EXPECT_EQ(node_.replica().last_origin_seq(), 2u);
  node_.Close();
}

TEST_F(ReplicaCaptureTest, UnderLoadWrittenPiecesGather) {
  for (int i = 0; i < 40; ++i) ASSERT_EQ(node_.Create("f" + std::to_string(i), 0644), 0);
  const uint64_t before = node_.replica().last_origin_seq();
  const absl::Time began = absl::Now();
  for (int i = 0; i < 400; ++i) ASSERT_EQ(node_.Write("f1", i * 100, std::string(100, 'x')), 0);
  const uint64_t records = node_.replica().last_origin_seq() - before;
  EXPECT_LE(records, (absl::Now() - began) / absl::Milliseconds(5) + 1);
  // Cut they are, without anybody asking.
  ASSERT_TRUE(node_.replica().CutAll().ok());
  const uint64_t last = node_.replica().last_origin_seq();
  ASSERT_EQ(node_.Write("f1", 0, "y"), 0);
  EXPECT_TRUE(tests::Eventually([&] { return node_.replica().last_origin_seq() == last + 1; }));
}

TEST_F(ReplicaCaptureTest, WhatWasReadBeforeATruncationIsReadAnew) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  node_.Close();
  Replica::Options options = node_.Options();
  options.max_dirty_bytes = 0;  // tells whether anything is dirty
  auto opened = node_.TryOpen(options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Replica& replica = **opened;
  UniqueFd fd(open(node_.Path("a").c_str(), O_RDWR));
  const ObjectId id(replica.db().Entry(kRootObject, "a").value().object());
  {
    absl::MutexLock lock(&replica.update_lock());
    ASSERT_TRUE(replica.CutBefore(id).ok());
    {
      absl::MutexLock data_lock(&replica.DataLock(id));
      ASSERT_EQ(pwrite(fd.get(), std::string(1000, 'x').data(), 1000, 0), 1000);
      replica.Wrote(id, 0, 1000);
    }
    // The cutter has read it and waits for the update lock.
    ASSERT_TRUE(tests::Eventually([&] { return !replica.OverDirtyLimit(); }));
    ASSERT_EQ(ftruncate(fd.get(), 10), 0);
    ASSERT_TRUE(replica.Truncated(id, fd.get(), 10).ok());
  }
  ASSERT_TRUE(replica.CutAll().ok());
  const auto entries = replica.db().ReadLocal(1, 10, 1 << 20);
  ASSERT_THAT(entries, SizeIs(2));
  EXPECT_TRUE(OpenRecord(entries[0].second)->has_truncate());
  const Record write = *OpenRecord(entries[1].second);
  EXPECT_EQ(write.write().size(), 10u);
  EXPECT_EQ(*OpenPayload(entries[1].second, write), std::string(10, 'x'));
}

TEST_F(ReplicaCaptureTest, RemoveKnowsTheLastName) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Link("a", "b"), 0);
  Take();
  ASSERT_EQ(node_.Unlink("a"), 0);
  Record record = TakeOne();
  EXPECT_FALSE(record.remove().last());
  EXPECT_THAT(Against(record), ElementsAre(V(1)));
  ASSERT_EQ(node_.Unlink("b"), 0);
  record = TakeOne();
  EXPECT_TRUE(record.remove().last());
  EXPECT_THAT(Against(record), ElementsAre(V(2), V(1), V(2))) << "the link changed the attributes";
  EXPECT_FALSE(node_.replica().db().Object(ObjectId(Ordinal(3), 1)).has_value());
}

TEST_F(ReplicaCaptureTest, RenameOverAndExchange) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Mkdir("d", 0755), 0);
  ASSERT_EQ(node_.Create("d/b", 0600), 0);
  Take();
  ASSERT_EQ(node_.Rename("a", "d/b", RENAME_EXCHANGE), 0);
  Record record = TakeOne();
  EXPECT_TRUE(record.rename().exchange());
  EXPECT_THAT(Against(record), ElementsAre(V(1), V(3)));
  ASSERT_EQ(node_.Rename("a", "d/b"), 0);
  record = TakeOne();
  EXPECT_TRUE(record.rename().replaced_last());
  EXPECT_THAT(Against(record), ElementsAre(V(4), V(4), V(1), V(1)));
  ASSERT_EQ(node_.Link("d/b", "same"), 0);
  Take();
  ASSERT_EQ(node_.Rename("d/b", "same"), 0);
  EXPECT_THAT(Take(), IsEmpty()) << "two names of one object: rename does nothing";
}

TEST_F(ReplicaCaptureTest, RenameWithWhiteoutLeavesADeviceWithItsAttributes) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  Take();
  ASSERT_EQ(node_.Rename("a", "b", RENAME_WHITEOUT), 0);
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(2));
  EXPECT_NE(captured[0].record.rename().whiteout(), 0u);
  EXPECT_EQ(captured[1].record.set_attributes().object(), captured[0].record.rename().whiteout());
  EXPECT_EQ(node_.IdOf("a").value(), captured[0].record.rename().whiteout());
}

TEST_F(ReplicaCaptureTest, AttributesAndXattrs) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  Take();
  ASSERT_EQ(node_.Chmod("a", 0400), 0);
  EXPECT_EQ(TakeOne().set_attributes().attributes().mode(), 0400u);
  ASSERT_EQ(node_.Utimens("a", {11, 12}, {13, 14}), 0);
  Record record = TakeOne();
  EXPECT_EQ(record.set_attributes().atime().nanos(), 12u);
  EXPECT_EQ(record.set_attributes().attributes().mtime().seconds(), 13);
  EXPECT_THAT(Against(record), ElementsAre(V(2)));
  ASSERT_EQ(node_.Setxattr("a", "user.colour", "green"), 0);
  EXPECT_EQ(TakeOne().set_xattr().xattr().value(), "green");
  ASSERT_EQ(node_.Removexattr("a", "user.colour"), 0);
  EXPECT_EQ(TakeOne().remove_xattr().name(), "user.colour");
}

TEST_F(ReplicaCaptureTest, CutBeforeKeepsOrder) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  Take();
  ASSERT_EQ(node_.Write("a", 0, "0123456789"), 0);
  ASSERT_EQ(node_.Truncate("a", 3), 0);
  std::vector<Captured> captured = Take();
  ASSERT_THAT(captured, SizeIs(2));
  EXPECT_TRUE(captured[0].record.has_write());
  EXPECT_EQ(captured[1].record.truncate().size(), 3u);
}

TEST_F(ReplicaCaptureTest, AnUnlinkedFileThatIsStillWrittenJournalsNothing) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  const ObjectId id = node_.IdOf("a");
  UniqueFd fd(open(node_.Path("a").c_str(), O_RDWR));
  ASSERT_EQ(node_.Unlink("a"), 0);
  Take();
  {
    absl::MutexLock lock(&node_.replica().DataLock(id));
    ASSERT_EQ(pwrite(fd.get(), "x", 1, 0), 1);
    node_.replica().Wrote(id, 0, 1);
  }
  {
    absl::MutexLock lock(&node_.replica().update_lock());
    EXPECT_TRUE(node_.replica().AttributesSet(id, fd.get(), false).ok());
    EXPECT_TRUE(node_.replica().Truncated(id, fd.get(), 0).ok());
  }
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_FALSE(node_.replica().OverDirtyLimit());
}

TEST_F(ReplicaCaptureTest, StateSurvivesAReopen) {
  ASSERT_EQ(node_.Create("a", 0644), 0);
  ASSERT_EQ(node_.Write("a", 0, "x"), 0);
  ASSERT_TRUE(node_.replica().SyncJournal(node_.IdOf("a")).ok());
  node_.Reopen();
  EXPECT_EQ(node_.replica().last_origin_seq(), 2u);
  EXPECT_EQ(node_.replica().pending_records(), 2u);
  ASSERT_EQ(node_.Create("b", 0644), 0);
  EXPECT_EQ(node_.IdOf("b"), ObjectId(Ordinal(3), 2));
}

TEST_F(ReplicaCaptureTest, RefusesADatabaseThatIsNotItsOwn) {
  node_.Close();
  Replica::Options options = node_.Options();
  options.collection_uid = 8;
  EXPECT_EQ(node_.TryOpen(options).status().code(), absl::StatusCode::kFailedPrecondition);
  options = node_.Options();
  options.instance = "another";
  EXPECT_EQ(node_.TryOpen(options).status().code(), absl::StatusCode::kFailedPrecondition);
  options = node_.Options();
  options.ordinal = Ordinal(4);
  EXPECT_TRUE(node_.TryOpen(options).ok()) << "the same instance under a new ordinal";
}

// Writers and namespace updates on many threads: every record is there, in order, none twice.
TEST_F(ReplicaCaptureTest, ManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kFiles = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kFiles; ++i) {
        const std::string name = absl::StrCat("f", t, "-", i);
        ASSERT_EQ(node_.Create(name, 0644), 0);
        ASSERT_EQ(node_.Write(name, 0, name), 0);
        if (i % 3 == 0) {
          ASSERT_EQ(node_.Rename(name, name + "x"), 0);
        }
        if (i % 5 == 0) {
          ASSERT_TRUE(node_.replica().CutAll().ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<uint64_t, uint64_t> data_version;
  int writes = 0;
  for (const Captured& captured : Take()) {
    const Record& record = captured.record;
    if (record.has_create()) data_version[record.create().object()] = record.version();
    if (record.has_write()) {
      ++writes;
      EXPECT_EQ(record.touches(0).against(), data_version[record.write().object()]);
      data_version[record.write().object()] = record.version();
    }
  }
  EXPECT_EQ(writes, kThreads * kFiles);
}

}  // namespace
}  // namespace intermezzo::sidecar
